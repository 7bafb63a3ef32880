/**
 * Lists of concepts with their strengths: Mix-of-Show's JSON,
 *
 *     [{ "lora_path": "a.pth", "unet_alpha": 1.0, "text_encoder_alpha": 1.0, "concept_name": "<a1> <a2>" }]
 *
 * and ours, in YAML or JSON:
 *
 *     concepts:
 *       - a.pth
 *       - { path: b.safetensors, strength: 0.8 }
 *       - { path: c.pth, unetStrength: 0.8, textEncoderStrength: 1, name: <c1> <c2> }
 */

import { z } from 'zod';
import { UsageError } from '../errors.ts';
import { excerpt, lengthExcerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { MAX_YAML_LENGTH, parseYaml } from '../formats/strict-yaml.ts';
import { exists } from '../io/file-info.ts';
import * as path from '../io/platform/paths.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { nearestName } from '../nearest-name.ts';

/** One concept of a run. */
export interface ConceptSpec {
  /** Absolute. */
  readonly path: string;
  /** Multiplies the concept's change of the UNet. 1 is as trained; may be negative. */
  readonly unetStrength: number;
  /** The same for the text encoder. */
  readonly textEncoderStrength: number;
  /** What prompts call it, e.g. `<a1> <a2>`; `null` to take the words from the file. */
  readonly conceptName: string | null;
}

/** As many as `parseYaml` takes, in UTF-8. */
const maxFileBytes = 4 * MAX_YAML_LENGTH;

/** Each is a file to open and a model to keep; the method is not meant for more than a few dozen. */
const maxConcepts = 1000;

/** A strength of 1 is as trained; beyond this there is nothing but noise. */
export const MAX_STRENGTH = 100;

const strength = z
  .number({ error: 'expected a number' })
  .min(-MAX_STRENGTH, { error: `expected -${MAX_STRENGTH} … ${MAX_STRENGTH}` })
  .max(MAX_STRENGTH, { error: `expected -${MAX_STRENGTH} … ${MAX_STRENGTH}` });
/** Paths and words: no file system takes longer paths. */
const text = z
  .string({ error: 'expected text' })
  .min(1, { error: 'expected text, got none' })
  .max(4096, { error: ({ input }) => `expected at most 4096 characters, got ${lengthExcerpt(input)}` })
  .refine((value) => !value.includes('\0'), { error: 'expected text without NUL' });

const mixOfShowEntry = z.strictObject({
  lora_path: text,
  unet_alpha: strength.default(1),
  text_encoder_alpha: strength.default(1),
  concept_name: text.optional(),
});

const ownEntry = z
  .strictObject({
    path: text,
    strength: strength.optional(),
    unetStrength: strength.optional(),
    textEncoderStrength: strength.optional(),
    name: text.optional(),
  })
  .refine(
    (entry) =>
      entry.strength === undefined ||
      (entry.unetStrength === undefined && entry.textEncoderStrength === undefined),
    { error: 'expected either "strength" for both networks, or "unetStrength" and "textEncoderStrength"' },
  );

const ownFile = z.strictObject({
  concepts: z
    .array(z.union([text, ownEntry]), { error: 'expected a list of concepts' })
    .min(1, { error: 'expected at least one concept, got an empty list' }),
});

/**
 * Read a list of concepts. Paths count from the list's folder, or else from the working directory.
 * @throws {FormatError} if the file cannot be read or parsed
 * @throws {UsageError} on unknown or missing keys, wrong values, an empty list, or a concept file that does not exist
 */
export async function readManifest(file: string): Promise<ConceptSpec[]> {
  const value = await readValue(file);
  const entries = Array.isArray(value) ? readMixOfShow(file, value) : readOwn(file, value);
  if (entries.length > maxConcepts) {
    throw new UsageError(`${file}: expected at most ${maxConcepts} concepts, got ${entries.length}`);
  }
  return entries.map((entry) => ({ ...entry, path: resolvePath(file, entry.path) }));
}

async function readValue(file: string): Promise<unknown> {
  return parseYaml(await readTextFile(file, maxFileBytes, 'a list of concepts'), file).value;
}

function readMixOfShow(file: string, list: readonly unknown[]): ConceptSpec[] {
  if (list.length === 0) throw new UsageError(`${file}: expected at least one concept, got an empty list`);
  return list.map((item, index) => {
    const entry = check(file, mixOfShowEntry, item, `[${index}]`);
    return {
      path: entry.lora_path,
      unetStrength: entry.unet_alpha,
      textEncoderStrength: entry.text_encoder_alpha,
      conceptName: entry.concept_name ?? null,
    };
  });
}

function readOwn(file: string, value: unknown): ConceptSpec[] {
  const list =
    typeof value === 'object' && value !== null && 'concepts' in value ? value.concepts : undefined;
  // Entry by entry, so that a message speaks of the entry and not of every form it might have had.
  if (Array.isArray(list)) {
    list.forEach((item: unknown, index) => {
      if (typeof item !== 'string') check(file, ownEntry, item, `concepts[${index}]`);
    });
  }
  return check(file, ownFile, value, '').concepts.map((entry) => {
    if (typeof entry === 'string') {
      return { path: entry, unetStrength: 1, textEncoderStrength: 1, conceptName: null };
    }
    const both = entry.strength ?? 1;
    return {
      path: entry.path,
      unetStrength: entry.unetStrength ?? both,
      textEncoderStrength: entry.textEncoderStrength ?? both,
      conceptName: entry.name ?? null,
    };
  });
}

/** @throws {UsageError} about the first issue, with the nearest known key for an unknown one */
function check<T>(file: string, schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = safeParse(schema, value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const place = issue.path.reduce<string>(
    (text, key) =>
      typeof key === 'number' ? `${text}[${key}]` : `${text}${text === '' ? '' : '.'}${String(key)}`,
    where,
  );
  const prefix = place === '' ? file : `${file}: ${place}`;
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    const known = schema instanceof z.ZodObject ? Object.keys(schema.shape) : [];
    const nearest = nearestName(key, known);
    const hint = nearest === null ? `known are ${known.join(', ')}` : `did you mean "${nearest}"?`;
    throw new UsageError(`${prefix}: unknown key "${excerpt(key)}"; ${hint}`);
  }
  throw new UsageError(`${prefix}: ${issue.message}`);
}

function resolvePath(file: string, target: string): string {
  const candidates = [path.resolve(path.dirname(file), target), path.resolve(target)];
  const found = candidates.find((candidate) => exists(candidate));
  if (found !== undefined) return found;
  throw new UsageError(
    `${file}: concept "${excerpt(target, 200)}" not found, looked for ${[...new Set(candidates)].join(' and ')}`,
  );
}
