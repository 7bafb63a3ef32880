/** Generic captions for prior preservation: what the base model must go on drawing as it does. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../errors.ts';
import { readTextFile } from '../io/read-small-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { GENERIC_CAPTIONS } from './generic-captions.ts';

/** A list of captions that a model folder may bring along, for models that know a world of their own. */
const MODEL_LIST = 'preservation_captions.txt';

/** How many captions guide denoising runs; each costs as much as a concept. */
export const MAX_DENOISED_CAPTIONS = 8;

const MAX_BYTES = 1 << 20;
/** Each is a run of the text encoder. */
const MAX_CAPTIONS = 10_000;

/**
 * Read a list of captions, one a line; empty lines and lines that begin with # do not count.
 * @throws {FormatError} if the file is missing, empty or larger than 1 MiB
 */
export async function readCaptions(file: string): Promise<string[]> {
  const text = await readTextFile(file, MAX_BYTES, 'a text file with one caption a line');
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const captions = lines.filter((line) => line !== '' && !line.startsWith('#'));
  if (captions.length === 0) throw new FormatError(file, 'expected captions, one a line, got none');
  if (captions.length > MAX_CAPTIONS) {
    throw new FormatError(file, `expected at most ${MAX_CAPTIONS} captions, got ${captions.length}`);
  }
  return captions;
}

/** The base's own list (`preservation_captions.txt` in its folder) or the shipped one. */
export async function defaultCaptions(base: Checkpoint): Promise<readonly string[]> {
  const file = path.join(base.path, MODEL_LIST);
  return base.layout === 'diffusers' && existsSync(file) ? readCaptions(file) : GENERIC_CAPTIONS;
}

/** The list with the empty prompt, which every guided picture is drawn against, and without repetitions. */
export function withEmptyPrompt(captions: readonly string[]): string[] {
  return [...new Set([...captions, ''])];
}

/** Evenly spread over the list, at most `limit`, the empty prompt among them. */
export function denoisedCaptions(captions: readonly string[], limit = MAX_DENOISED_CAPTIONS): string[] {
  const named = captions.filter((caption) => caption !== '');
  const count = Math.min(named.length, limit - 1);
  const picked = Array.from({ length: count }, (_, i) => named[Math.floor((i * named.length) / count)]!);
  return [...picked, ''];
}
