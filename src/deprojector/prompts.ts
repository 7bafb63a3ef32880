/** Prompts to learn from: a list, the captions of a folder, or all combinations of a template's words. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { infoOf } from '../io/file-info.ts';
import { readTextFile } from '../io/read-small-file.ts';

const MAX_LIST_BYTES = 1 << 28;
const MAX_CAPTION_BYTES = 1 << 20;
/** Combinations of a template; more were a mistake in its lists. */
const MAX_COMBINATIONS = 1_000_000;

/** Prompts of a file, one a line; empty lines and those that begin with # are none. @throws {FormatError} for what cannot be read */
export async function readPromptList(file: string): Promise<string[]> {
  return linesOf(await readTextFile(file, MAX_LIST_BYTES, 'a list of prompts'));
}

/** All captions (`.txt`) of a folder, in the order of their names. @throws {UsageError} if there are none */
export async function captionsOf(folder: string): Promise<string[]> {
  if (!infoOf(folder)?.isDirectory()) throw new UsageError(`${folder}: expected a folder with captions`);
  const names = readdirSync(folder)
    .filter((name) => name.endsWith('.txt'))
    .sort();
  if (names.length === 0) throw new UsageError(`${folder}: expected captions (.txt), found none`);
  const captions: string[] = [];
  for (const name of names) {
    captions.push(...linesOf(await readTextFile(path.join(folder, name), MAX_CAPTION_BYTES, 'a caption')));
  }
  return captions;
}

/**
 * A template with each of its `{names}` replaced by each of the name's words: `photo of a {colour} {shape}`.
 * @param lists words by name
 * @throws {UsageError} for a name without words, words that nothing names, and too many combinations
 */
export function combinations(template: string, lists: ReadonlyMap<string, readonly string[]>): string[] {
  const names = [...new Set([...template.matchAll(/\{([^{}]+)\}/g)].map(([, name]) => name!))];
  const missing = names.find((name) => (lists.get(name)?.length ?? 0) === 0);
  if (missing !== undefined)
    throw new UsageError(`template "${excerpt(template)}": expected words for {${excerpt(missing)}}`);
  const idle = [...lists.keys()].find((name) => !names.includes(name));
  if (idle !== undefined)
    throw new UsageError(`template "${excerpt(template)}": nothing in it is called {${excerpt(idle)}}`);
  const count = names.reduce((product, name) => product * lists.get(name)!.length, 1);
  if (count > MAX_COMBINATIONS) {
    throw new UsageError(
      `template "${excerpt(template)}": expected at most ${MAX_COMBINATIONS} combinations, got ${count}`,
    );
  }
  return names.reduce<string[]>(
    (texts, name) =>
      texts.flatMap((text) => lists.get(name)!.map((word) => text.replaceAll(slotOf(name), () => word))),
    [template],
  );
}

const slotOf = (name: string): string => ['{', name, '}'].join('');

/** Each prompt once, in order. @throws {UsageError} for fewer than two: one is learned from, one held out */
export function distinctPrompts(prompts: readonly string[]): string[] {
  const distinct = [...new Set(prompts)];
  if (distinct.length < 2) {
    throw new UsageError(
      `prompts: expected two different ones or more, since some are held out, got ${distinct.length}`,
    );
  }
  return distinct;
}

const linesOf = (text: string): string[] =>
  text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));

/** Words of a list: `red, green, blue`, or a file with one a line. @throws {FormatError} for a file that cannot be read */
export async function wordsOf(list: string): Promise<string[]> {
  if (infoOf(list)?.isFile()) return readPromptList(list);
  return list
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '');
}
