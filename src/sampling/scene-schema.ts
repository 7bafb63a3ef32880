/** Scenes as files and command lines have them, field by field: what each may hold, and how short forms of regions are written out. */

import { z } from 'zod';
import type { EmbeddedPart } from '../deprojector/embed.ts';
import { UsageError } from '../errors.ts';
import { lengthExcerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { PREDICTION_TYPES } from '../models/model-schedule.ts';
import { COMBINATION_NAMES } from './combine.ts';
import {
  MAX_BATCH,
  MAX_CORNERS,
  MAX_COUNT,
  MAX_FEATHER,
  MAX_FILES,
  MAX_GUIDANCE,
  MAX_GUIDES,
  MAX_LAYERS,
  MAX_ORIGINAL_SIDE,
  MAX_PARTS,
  MAX_PATH_LENGTH,
  MAX_PROMPT_LENGTH,
  MAX_REGION_WEIGHT,
  MAX_REGIONS,
  MAX_SEED,
  MAX_SIDE,
  MAX_STEPS,
  MAX_STRENGTH,
  rangeMessage,
} from './limits.ts';
import type { RegionSpec, ShapeSpec, StrengthSpec } from './region-text.ts';

/** A number within limits; the message says both. */
const ranged = (low: number, high: number): z.ZodNumber =>
  z
    .number({ error: 'expected a number' })
    .min(low, { error: ({ input }) => rangeMessage(low, high, input) })
    .max(high, { error: ({ input }) => rangeMessage(low, high, input) });
const whole = (low: number, high: number): z.ZodInt =>
  z
    .int({ error: 'expected a whole number' })
    .min(low, { error: ({ input }) => rangeMessage(low, high, input) })
    .max(high, { error: ({ input }) => rangeMessage(low, high, input) });
const textUpTo = (length: number): z.ZodString =>
  z.string({ error: 'expected text' }).max(length, {
    error: ({ input }) => `expected at most ${length} characters, got ${lengthExcerpt(input)}`,
  });
const listUpTo = <T extends z.ZodType>(item: T, count: number): z.ZodArray<T> =>
  z.array(item).max(count, {
    error: ({ input }) => `expected at most ${count} entries, got ${(input as unknown[]).length}`,
  });

const prompt = textUpTo(MAX_PROMPT_LENGTH);
const name = textUpTo(1000);
const path = textUpTo(MAX_PATH_LENGTH)
  .min(1, { error: 'expected a path, got none' })
  .refine((value) => !value.includes('\0'), { error: 'expected a path without NUL' });
const number = z.number({ error: 'expected a number' });
const strength = ranged(-MAX_STRENGTH, MAX_STRENGTH);
const share = ranged(0, 1);

const pixels = (form: string) => {
  const side = whole(0, MAX_ORIGINAL_SIDE);
  return z.tuple([side, side], { error: `expected ${form}` });
};

const strengths = {
  /** Of both networks. Default 1. */
  strength: strength.optional(),
  unetStrength: strength.optional(),
  textEncoderStrength: strength.optional(),
};
const weights = z.union([path, z.strictObject({ path, ...strengths })]);

const part = z.union([
  textUpTo(MAX_PROMPT_LENGTH),
  z.strictObject({ text: prompt, weight: number.optional() }),
  z.strictObject({ image: path, weight: number.optional() }),
]);

/** What stands in place of a prompt: one kind of it at most. */
const inPlace = {
  /** Texts and pictures whose mean is drawn by the scene's `deprojector`; `maid:0.7` weighs. */
  embed: listUpTo(part, MAX_PARTS).optional(),
  negativeEmbed: listUpTo(part, MAX_PARTS).optional(),
  /** Files of states, as `deproject apply` writes them. */
  states: path.optional(),
  negativeStates: path.optional(),
};

/** Exactly one of them says where. Numbers are fractions of the picture if none is above 1, else pixels. */
const place = {
  /** left, top, right, bottom */
  box: z.tuple([number, number, number, number], { error: 'expected [left, top, right, bottom]' }).optional(),
  /** Corners x, y. */
  polygon: listUpTo(z.tuple([number, number], { error: 'expected [x, y]' }), MAX_CORNERS)
    .min(3, { error: 'expected three corners or more' })
    .optional(),
  /** A picture: white belongs to the region. */
  mask: path.optional(),
  /** Pixels over which edges fade. Default 0. */
  feather: ranged(0, MAX_FEATHER).optional(),
};
const onePlace = {
  check: (entry: { box?: unknown; polygon?: unknown; mask?: unknown }): boolean =>
    [entry.box, entry.polygon, entry.mask].filter((value) => value !== undefined).length === 1,
  error: 'expected exactly one of box, polygon and mask',
};

const region = z
  .strictObject({
    /** Not empty, unless something stands in its place. */
    prompt: prompt.optional(),
    negative: prompt.optional(),
    ...inPlace,
    ...place,
    /** Its part where regions overlap. Default 1. */
    weight: ranged(1 / MAX_REGION_WEIGHT, MAX_REGION_WEIGHT).optional(),
    /** LoRAs that act here alone, as `<lora:file:0.8>` in its prompt. */
    loras: listUpTo(weights, MAX_FILES).optional(),
  })
  .refine(onePlace.check, { error: onePlace.error })
  .refine(({ prompt: own, embed, states }) => own || embed !== undefined || states !== undefined, {
    path: ['prompt'],
    error: 'expected a prompt, got none',
  })
  .transform((entry) => ({ ...entry, prompt: entry.prompt ?? '' }));

const regionStrength = z
  .strictObject({ strength, ...place })
  .refine(onePlace.check, { error: onePlace.error });

/** Regions as text hold their prompts. */
const regionText = textUpTo(MAX_REGIONS * MAX_PROMPT_LENGTH);

const guide = z.strictObject({
  /** Folder of a T2I-Adapter (full_adapter) in diffusers' layout. */
  adapter: path,
  image: path,
  strength: strength.optional(),
  /** Other strengths inside shapes, or Mix-of-Show's `[y0, x0, y1, x1]-0.8|…`. */
  regions: z.union([regionText, listUpTo(regionStrength, MAX_REGIONS)]).optional(),
});

const control = z.strictObject({
  /** Folder of a ControlNet in diffusers' layout. */
  model: path,
  image: path,
  strength: strength.optional(),
});

export const sceneSchema = z.strictObject({
  /** Diffusers folder or single file. Default: what the fusion was made on, or the miniature that comes with edlora. */
  base: path.optional(),
  /** Folder with tokenizer and configs of a single-file base. */
  baseConfig: path.optional(),
  /** A fusion's folder, or a fused checkpoint folder. */
  fused: path.optional(),
  /** ED-LoRA or LoRA files with their words. */
  concepts: listUpTo(weights, MAX_FILES).optional(),
  loras: listUpTo(weights, MAX_FILES).optional(),
  /** LoRAs that act everywhere, as `<lora:file:0.8>` in the prompt. */
  promptLoras: listUpTo(weights, MAX_FILES).optional(),
  /** Concepts act in the whole picture, whichever region names them. Default false. */
  conceptsEverywhere: z.boolean({ error: 'expected true or false' }).optional(),
  /** How concepts act together in a prompt without regions. Default `sum`. */
  combine: z.enum(COMBINATION_NAMES).optional(),
  /** Textual inversion files. */
  embeddings: listUpTo(path, MAX_FILES).optional(),
  prompt: prompt.optional(),
  negative: prompt.optional(),
  /** What the second text encoder reads in place of `prompt`, and of `negative`, where a base has two. */
  prompt2: prompt.optional(),
  negative2: prompt.optional(),
  /** What makes states of embeddings: a file of `deproject train`. */
  deprojector: path.optional(),
  /** Folder of the CLIP model that embeds pictures. Default: `clip/` in the base. */
  clip: path.optional(),
  ...inPlace,
  /** Objects, or short forms `prompt @ left,top,right,bottom : negative`; `auto`: each concept of the prompt finds its place. */
  regions: z
    .union([
      listUpTo(z.union([regionText, region]), MAX_REGIONS),
      z.literal('auto', { error: 'expected a list, or auto' }),
    ])
    .optional(),
  /** `regions: auto` with its settings. */
  autoRegions: z
    .strictObject({ restart: z.boolean({ error: 'expected true or false' }).optional() })
    .optional(),
  /** Mix-of-Show's `[prompt]-*-[negative]-*-[y0, x0, y1, x1]|…`; added to `regions`. */
  promptRewrite: regionText.optional(),
  /** Prompts for single cross-attention layers: `coarse`, `middle`, `fine`, `3`, `0-5`, `0,2,4`. */
  styleMix: z
    .record(name, prompt)
    .refine((mix) => Object.keys(mix).length <= MAX_LAYERS, {
      error: `expected at most ${MAX_LAYERS} entries`,
    })
    .optional(),
  isolate: share.optional(),
  width: whole(1, MAX_SIDE).optional(),
  height: whole(1, MAX_SIDE).optional(),
  /** What the model is told of the picture's origin, where it reads that: width and height, left and top. */
  originalSize: pixels('[width, height]').optional(),
  crop: pixels('[left, top]').optional(),
  steps: whole(1, MAX_STEPS).optional(),
  guidance: ranged(-MAX_GUIDANCE, MAX_GUIDANCE).optional(),
  guidanceRescale: share.optional(),
  sampler: name.optional(),
  /** `karras`, `leading`, `linspace`, `trailing`, or several of them joined by `+`. Default: the model's own. */
  schedule: name.optional(),
  prediction: z.enum(PREDICTION_TYPES).optional(),
  eta: share.optional(),
  clipSkip: whole(0, 64).optional(),
  seed: whole(-MAX_SEED, MAX_SEED).optional(),
  count: whole(1, MAX_COUNT).optional(),
  /** Pictures per pass of the UNet. */
  batch: whole(1, MAX_BATCH).optional(),
  init: z.strictObject({ image: path, denoise: share.optional() }).optional(),
  guides: listUpTo(guide, MAX_GUIDES).optional(),
  controls: listUpTo(control, MAX_GUIDES).optional(),
});

export type Scene = z.output<typeof sceneSchema>;
/** As scene files have it. */
export type WrittenRegion = z.output<typeof region>;
/** What stands in place of prompts, with short forms written out. */
export interface EmbeddedInPlace {
  readonly embed?: readonly EmbeddedPart[];
  readonly negativeEmbed?: readonly EmbeddedPart[];
}
export type ScenePlace = Pick<WrittenRegion, 'box' | 'polygon' | 'mask' | 'feather'>;
export type SceneGuide = z.output<typeof guide>;

/**
 * A region's short form as a scene file has it.
 * @throws {UsageError} where a number is outside its range, as in scene files
 */
export function sceneRegion(
  { prompt: own, negative, shape, feather, weight }: RegionSpec,
  where: string,
): Omit<WrittenRegion, 'loras' | keyof EmbeddedInPlace> {
  const {
    loras: _,
    embed: __,
    negativeEmbed: ___,
    ...plain
  } = checked(region, { prompt: own, negative, ...scenePlace(shape), feather, weight }, where);
  return plain;
}

/** The strength inside a place, as a scene file has it. @throws {UsageError} as `sceneRegion` */
export function sceneStrength(
  { shape, strength: inside }: StrengthSpec,
  where: string,
): z.output<typeof regionStrength> {
  return checked(regionStrength, { ...scenePlace(shape), strength: inside }, where);
}

function checked<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = safeParse(schema, value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new UsageError(`${where}: ${[...issue!.path.map(String), ''].join(': ')}${issue!.message}`);
}

/** A place's short form as a scene file has it. */
function scenePlace(shape: ShapeSpec): ScenePlace {
  switch (shape.kind) {
    case 'box':
      return { box: [...shape.box] };
    case 'polygon':
      return { polygon: shape.polygon.map(([x, y]) => [x, y]) };
    case 'mask':
      return { mask: shape.file };
  }
}
