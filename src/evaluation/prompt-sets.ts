/**
 * Prompts to judge a concept by. `<TOK>` marks the concept's place. The sets cover what tables of personalisation
 * papers cover: new places, other company, other materials and styles; each has twenty prompts.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { infoOf } from '../io/file-info.ts';
import { readTextFile } from '../io/read-small-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';

/** The concept's place in a prompt. */
export const PLACE = '<TOK>';

export const PROMPT_SETS = {
  /** Things: toys, tools, food, furniture. */
  object: [
    'photo of a <TOK>',
    'a <TOK> on a kitchen table, morning light',
    'a <TOK> lying in fresh snow',
    'a <TOK> on a sandy beach beside the waves',
    'a <TOK> in the middle of a busy crossing',
    'a <TOK> under a tree in an autumn park',
    'a <TOK> floating in a swimming pool',
    'a <TOK> next to a stack of old books',
    'a <TOK> and a cup of tea',
    'a cat sniffing at a <TOK>',
    'a <TOK> in the hands of a child',
    'close-up of a <TOK>, shallow depth of field',
    'a <TOK> in a glass case of a museum',
    'a <TOK> in front of a snow-covered mountain',
    'a red <TOK>',
    'a <TOK> carved from wood',
    'an oil painting of a <TOK>',
    'a pencil sketch of a <TOK> on yellowed paper',
    'a <TOK> as a pixel-art sprite',
    'a poster that shows a <TOK>, flat colours',
  ],
  /** People, animals, figures. */
  character: [
    'photo of <TOK>',
    'portrait of <TOK>, studio light',
    'photo of <TOK> walking through a city at night',
    '<TOK> sitting on a park bench',
    '<TOK> on a boat, blue sea behind',
    '<TOK> cooking in a small kitchen',
    '<TOK> reading a newspaper in a café',
    '<TOK> in the rain with an umbrella',
    '<TOK> riding a bicycle down a country road',
    '<TOK> in front of an ancient temple',
    '<TOK> wearing sunglasses',
    '<TOK> wearing a heavy winter coat',
    '<TOK> dressed as an astronaut',
    '<TOK> playing the guitar on a stage',
    '<TOK> and a large dog',
    '<TOK> asleep under a tree',
    'an oil painting of <TOK>, thick strokes',
    'a charcoal drawing of <TOK>',
    '<TOK> as a bronze statue',
    '<TOK> as a character of a children’s book',
  ],
  /** Manners of drawing. */
  style: [
    'a picture in the style of <TOK>',
    'a cat, in the style of <TOK>',
    'a sleeping dog, in the style of <TOK>',
    'a lighthouse on a cliff, in the style of <TOK>',
    'a city street after rain, in the style of <TOK>',
    'a bowl of fruit, in the style of <TOK>',
    'a forest in winter, in the style of <TOK>',
    'a woman with a hat, in the style of <TOK>',
    'an old man smoking a pipe, in the style of <TOK>',
    'a steam train crossing a bridge, in the style of <TOK>',
    'a ship in a storm, in the style of <TOK>',
    'a vase with sunflowers, in the style of <TOK>',
    'a castle on a hill, in the style of <TOK>',
    'two people dancing, in the style of <TOK>',
    'a robot watering plants, in the style of <TOK>',
    'a market place, in the style of <TOK>',
    'a whale under the night sky, in the style of <TOK>',
    'a chair by an open window, in the style of <TOK>',
    'a mountain lake, in the style of <TOK>',
    'a hot-air balloon, in the style of <TOK>',
  ],
  /** Places that other things stand in. */
  scene: [
    'photo of <TOK>',
    'a cat in <TOK>',
    'a dog running through <TOK>',
    'a man in a suit, in <TOK>',
    'a girl with a red balloon in <TOK>',
    'a bicycle parked in <TOK>',
    'a table laid for dinner in <TOK>',
    'an old car in <TOK>',
    'a crowd of people in <TOK>',
    'a horse standing in <TOK>',
    '<TOK> in winter, covered with snow',
    '<TOK> at night, lit by lanterns',
    '<TOK> in thick fog',
    '<TOK> at sunset',
    '<TOK> flooded by water',
    '<TOK> overgrown by plants',
    '<TOK> seen from above',
    'a watercolor of <TOK>',
    'an ink drawing of <TOK>',
    '<TOK> built from toy bricks',
  ],
} as const satisfies Record<string, readonly string[]>;

export type PromptSet = keyof typeof PROMPT_SETS;

/** A list that a model folder may bring along, for models that know a world of their own. */
const MODEL_LIST = 'evaluation_prompts.txt';
const MAX_BYTES = 1 << 20;
/** Each is drawn at least once by every model. */
const MAX_PROMPTS = 10_000;

/** Is this the name of a shipped set? */
export function isPromptSet(name: string): name is PromptSet {
  return Object.hasOwn(PROMPT_SETS, name);
}

/**
 * Prompts of a set or of a text file, one a line; empty lines and lines that begin with # do not count.
 * @throws {UsageError} for an unknown set that is no file either; {FormatError} for a prompt without `<TOK>`, or none
 */
export async function loadPrompts(setOrFile: string): Promise<readonly string[]> {
  if (isPromptSet(setOrFile)) return PROMPT_SETS[setOrFile];
  const info = infoOf(setOrFile);
  if (info === undefined || info.isDirectory()) {
    const sets = Object.keys(PROMPT_SETS).join(', ');
    throw new UsageError(`prompts "${setOrFile}": expected one of ${sets}, or a text file`);
  }
  const text = await readTextFile(setOrFile, MAX_BYTES, 'a list of prompts');
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const prompts = lines.filter((line) => line !== '' && !line.startsWith('#'));
  if (prompts.length === 0) throw new FormatError(setOrFile, 'expected prompts, one a line, got none');
  if (prompts.length > MAX_PROMPTS) {
    throw new FormatError(setOrFile, `expected at most ${MAX_PROMPTS} prompts, got ${prompts.length}`);
  }
  const without = prompts.find((prompt) => !prompt.includes(PLACE));
  if (without !== undefined) {
    throw new FormatError(setOrFile, `expected ${PLACE} where the concept goes, got "${excerpt(without)}"`);
  }
  return prompts;
}

/** The base's own list (`evaluation_prompts.txt` in its folder), or the object set. */
export async function defaultPrompts(base: Checkpoint): Promise<readonly string[]> {
  const file = path.join(base.path, MODEL_LIST);
  return base.layout === 'diffusers' && existsSync(file) ? loadPrompts(file) : PROMPT_SETS.object;
}

/** The prompt with `words` in the concept's place. */
export function withWords(prompt: string, words: string): string {
  return prompt.split(PLACE).join(words);
}

/** The prompt without the concept, as text alignment is measured against: `a <TOK> in the snow` → `a in the snow`. */
export function withoutConcept(prompt: string): string {
  return prompt.replaceAll(PLACE, '').replace(/\s+/g, ' ').replace(/ ,/g, ',').trim();
}
