/**
 * Statistics as a file: safetensors with one tensor per input, `stage|input`: the upper triangle of a Gram matrix
 * [n (n + 1) / 2], or rows [N, n]; float32. What was collected, and how, stands in the header. The same form in float64,
 * with the predictions of the run under way, holds a collection that is not finished.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { FormatError } from '../../errors.ts';
import {
  memoryTensor,
  type RawTensor,
  readBytes,
  readFloat32,
  readFloat64,
} from '../../formats/raw-tensor.ts';
import { openSafetensors, writeSafetensors } from '../../formats/safetensors.ts';
import { packedLength } from '../../linalg/gram.ts';
import { STAGES, type Stage } from '../stage.ts';
import type { SpatialState } from './collect.ts';
import { type StageStatistics, type Statistics, type SumState, storedForm, termFrom } from './statistics.ts';

const KEY = 'edlora.statistics';
const PARTIAL_KEY = 'edlora.partial_statistics';

const options = z.object({
  steps: z.number(),
  seed: z.number(),
  promptTemplates: z.array(z.string()),
  runs: z.number(),
  guidanceScale: z.number(),
  contrast: z.number(),
  size: z.object({ width: z.number(), height: z.number() }).nullable(),
});

const recipeSchema = z.object({
  /** Changes when the same options would give other numbers. */
  version: z.number(),
  /** sha256 of the base's text encoder and UNet files, in that order. */
  base: z.array(z.string()),
  /** sha256 of the noise schedule. */
  schedule: z.string(),
  subject: z.union([
    z.object({
      kind: z.literal('concept'),
      name: z.string(),
      words: z.array(z.string()),
      unetStrength: z.number(),
      textEncoderStrength: z.number(),
      /** sha256 of its files. */
      files: z.array(z.string()),
    }),
    z.object({ kind: z.literal('base'), captions: z.array(z.string()) }),
  ]),
  /** Which layers of each stage: those of attentions, or every linear layer. */
  layers: z.record(z.enum(STAGES), z.enum(['none', 'attention', 'linear'])),
  options,
});

/** What statistics were collected from, and how: two equal recipes give the same numbers. */
export type StatisticsRecipe = z.infer<typeof recipeSchema>;

const headerSchema = z.object({
  recipe: recipeSchema,
  stages: z.record(
    z.enum(STAGES),
    z.object({
      inputOf: z.record(z.string(), z.string()),
      rows: z.record(z.string(), z.number()),
      /** Width n by input. */
      sizes: z.record(z.string(), z.number()),
      /** Inputs of which the rows are stored. */
      asRows: z.array(z.string()),
    }),
  ),
  /** Of all tensors, in the order of the header. */
  sha256: z.string(),
});

const partialSchema = z.object({
  recipe: recipeSchema,
  runsDone: z.number().int().nonnegative(),
  predictions: z.number().int().nonnegative(),
  rows: z.record(z.string(), z.number()),
});

/** Statistics from a file, with what the header says of them. */
export interface StoredStatistics {
  readonly recipe: StatisticsRecipe;
  readonly statistics: Statistics;
}

/** Write statistics whole or not at all. @throws {EdloraError} if the disk is full or the folder not writable */
export async function writeStatistics(
  file: string,
  recipe: StatisticsRecipe,
  statistics: Statistics,
): Promise<void> {
  const tensors: RawTensor[] = [];
  const stages: Partial<Record<Stage, unknown>> = {};
  for (const stage of STAGES) {
    const { inputOf, rows, term } = statistics[stage];
    const sizes: Record<string, number> = {};
    const asRows: string[] = [];
    for (const input of rows.keys()) {
      const held = term(input);
      const { shape, values } = storedForm(held);
      if ('features' in held) asRows.push(input);
      sizes[input] = 'features' in held ? held.features.cols : 'packed' in held ? held.size : held.rows;
      tensors.push(floats(`${stage}|${input}`, 'F32', shape, values));
    }
    stages[stage] = { inputOf: Object.fromEntries(inputOf), rows: Object.fromEntries(rows), sizes, asRows };
  }
  const sorted = tensors.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  await writeSafetensors(file, sorted, {
    [KEY]: JSON.stringify({ recipe, stages, sha256: hashOf(sorted) }),
  });
}

/**
 * Open statistics; Gram matrices stay in the file until asked for.
 * @throws {FormatError} if it is not such a file, or its numbers are not those that were written
 */
export async function openStatistics(file: string): Promise<StoredStatistics> {
  const { metadata, tensors } = await openSafetensors(file);
  const { recipe, stages, sha256 } = parsed(file, headerSchema, metadata.get(KEY), 'statistics');
  const sorted = [...tensors.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  if (hashOf(sorted) !== sha256) {
    throw new FormatError(
      file,
      'expected the numbers that were collected, got others: the file is damaged; delete it',
    );
  }
  const stageOf = (stage: Stage): StageStatistics => {
    const { inputOf, rows, sizes, asRows } = stages[stage];
    const stored = new Set(asRows);
    return {
      inputOf: new Map(Object.entries(inputOf)),
      rows: new Map(Object.entries(rows)),
      term: (input) => {
        const tensor = tensors.get(`${stage}|${input}`);
        const size = sizes[input];
        const length = size === undefined ? 0 : stored.has(input) ? rows[input]! * size : packedLength(size);
        if (
          tensor === undefined ||
          size === undefined ||
          tensor.shape.reduce((a, b) => a * b, 1) !== length
        ) {
          throw new FormatError(
            file,
            `expected ${length} numbers for ${stage} ${input}, got ${tensor?.shape ?? 'none'}`,
          );
        }
        return termFrom(readFloat32(tensor), size, stored.has(input) ? rows[input]! : null);
      },
    };
  };
  return {
    recipe,
    statistics: { text: stageOf('text'), cross: stageOf('cross'), spatial: stageOf('spatial') },
  };
}

/** Write where a collection stands. */
export async function writePartial(
  file: string,
  recipe: StatisticsRecipe,
  { runsDone, predictions, sums }: SpatialState,
): Promise<void> {
  const tensors = [...sums].map(([input, { packed }]) =>
    floats(`sum|${input}`, 'F64', [packed.length], packed),
  );
  predictions.forEach((values, i) => {
    tensors.push(floats(`prediction|${i}`, 'F32', [values.length], values));
  });
  const rows = Object.fromEntries([...sums].map(([input, sum]) => [input, sum.rows]));
  await writeSafetensors(file, tensors, {
    [PARTIAL_KEY]: JSON.stringify({ recipe, runsDone, predictions: predictions.length, rows }),
  });
}

/**
 * Where a collection stopped; `null` if the file is of another collection.
 * @throws {FormatError} if it is not such a file
 */
export async function openPartial(file: string, recipe: StatisticsRecipe): Promise<SpatialState | null> {
  const { metadata, tensors } = await openSafetensors(file);
  const header = parsed(file, partialSchema, metadata.get(PARTIAL_KEY), 'unfinished statistics');
  if (JSON.stringify(header.recipe) !== JSON.stringify(recipe)) return null;
  const tensor = (name: string): RawTensor => {
    const found = tensors.get(name);
    if (found === undefined)
      throw new FormatError(file, `expected a tensor "${name}", got none; delete the file`);
    return found;
  };
  const sums = new Map<string, SumState>(
    Object.entries(header.rows).map(([input, rows]) => [
      input,
      { packed: readFloat64(tensor(`sum|${input}`)), rows },
    ]),
  );
  const predictions = Array.from({ length: header.predictions }, (_, i) =>
    readFloat32(tensor(`prediction|${i}`)),
  );
  return { runsDone: header.runsDone, predictions, sums };
}

function floats(
  name: string,
  dtype: 'F32' | 'F64',
  shape: readonly number[],
  values: Float32Array | Float64Array,
): RawTensor {
  const { buffer, byteOffset, byteLength } = values;
  return memoryTensor(name, dtype, shape, new Uint8Array(buffer, byteOffset, byteLength));
}

function hashOf(tensors: readonly RawTensor[]): string {
  const hash = createHash('sha256');
  for (const tensor of tensors) hash.update(tensor.name).update(readBytes(tensor));
  return hash.digest('hex');
}

function parsed<T>(file: string, schema: z.ZodType<T>, text: string | undefined, what: string): T {
  if (text === undefined)
    throw new FormatError(file, `expected ${what}, got a safetensors file of another kind`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(file, `expected a header of ${what} in JSON`, { cause });
  }
  const result = schema.safeParse(value);
  if (!result.success) {
    const [issue] = result.error.issues;
    throw new FormatError(file, `${what}: ${issue!.path.join('.')}: ${issue!.message}`);
  }
  return result.data;
}
