/**
 * Statistics as a file: safetensors with one tensor per input, `stage|input`: the upper triangle of a Gram matrix
 * [n (n + 1) / 2] in float64 (earlier versions: float32), or rows [N, n] in float32. What was collected, and how, stands
 * in the header. The same form, with the predictions of the run under way, holds a collection that is not finished.
 */

import { z } from 'zod';
import { FormatError } from '../../errors.ts';
import { type HeldFile, holdSafetensors } from '../../formats/held-file.ts';
import {
  elementCount,
  memoryTensor,
  type RawTensor,
  readFloat32,
  readFloat64,
  readFloat64Later,
} from '../../formats/raw-tensor.ts';
import { safeParse } from '../../formats/safe-parse.ts';
import { writeSafetensors } from '../../formats/safetensors.ts';
import { sealOf } from '../../formats/seal.ts';
import { packedLength } from '../../linalg/gram.ts';
import { STAGES, type Stage } from '../stage.ts';
import type { SpatialState } from './collect.ts';
import type { SumState } from './feature-sums.ts';
import { type StageStatistics, type Statistics, storedForm, termFrom } from './statistics.ts';
import {
  canonicalRecipe,
  MAX_ENTRIES,
  RECIPE_VERSION,
  recipeSchema,
  type StatisticsKey,
} from './statistics-recipe.ts';

export type { StatisticsKey } from './statistics-recipe.ts';

const KEY = 'edlora.statistics';
const PARTIAL_KEY = 'edlora.unfinished_statistics';
/** Where an earlier version stood, whose sums came in float32. */
const FORMER_PARTIAL_KEY = 'edlora.partial_statistics';

const count = z.number().int().nonnegative();
const positive = z.number().int().positive();

function table<T extends z.ZodType>(value: T) {
  return z
    .record(z.string(), value)
    .refine((entries) => Object.keys(entries).length <= MAX_ENTRIES, `expected at most ${MAX_ENTRIES}`);
}

const headerSchema = z.object({
  recipe: recipeSchema,
  stages: z.record(
    z.enum(STAGES),
    z.object({
      inputOf: table(z.string()),
      rows: table(count),
      /** Width n by input. */
      sizes: table(positive),
      /** Inputs of which the rows are stored. */
      asRows: z.array(z.string()).max(MAX_ENTRIES),
    }),
  ),
});

type StoredStage = z.infer<typeof headerSchema>['stages'][Stage];

const partialSchema = z.object({
  recipe: recipeSchema,
  runsDone: count,
  predictions: count,
  rows: table(count),
  /** Width n of inputs whose rows are kept. */
  asRows: table(positive),
});

/** Statistics from a file, with what the header says of them. */
export interface StoredStatistics {
  readonly recipe: StatisticsKey;
  readonly statistics: Statistics;
  /** Width n of an input; `undefined` for one that is not there. */
  sizeOf(stage: Stage, input: string): number | undefined;
  /** Give the file back: its Gram matrices cannot be read any more. Done by itself once nobody can ask for one. */
  close(): void;
}

/** Statistics of another version of this tool, whose numbers may be right but were told in another way. */
export class VersionError extends FormatError {
  override name = 'VersionError';
}

/** Write statistics whole or not at all. @throws {EdloraError} if the disk is full or the folder not writable */
export async function writeStatistics(
  file: string,
  recipe: StatisticsKey,
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
      tensors.push(floats(`${stage}|${input}`, shape, values));
    }
    stages[stage] = { inputOf: Object.fromEntries(inputOf), rows: Object.fromEntries(rows), sizes, asRows };
  }
  await writeSealed(file, KEY, { recipe, stages }, tensors);
}

/**
 * Open statistics; Gram matrices stay in the file until asked for, all of them in this one, whatever takes its name.
 * @throws {FormatError} if it is not such a file, of another version, or neither numbers nor header are what was written
 */
export async function openStatistics(file: string): Promise<StoredStatistics> {
  const held = await holdSafetensors(file);
  try {
    const { recipe, stages } = openSealed(file, held, KEY, headerSchema, 'statistics');
    const { tensors } = held.opened;
    const opened = (stage: Stage): StageStatistics => openedStage(file, stage, stages[stage], tensors);
    const statistics = { text: opened('text'), cross: opened('cross'), spatial: opened('spatial') };
    const sizeOf = (stage: Stage, input: string): number | undefined =>
      Object.hasOwn(stages[stage].sizes, input) ? stages[stage].sizes[input] : undefined;
    return { recipe, statistics, sizeOf, close: held.close };
  } catch (error) {
    held.close();
    throw error;
  }
}

function openedStage(
  file: string,
  stage: Stage,
  { inputOf, rows, sizes, asRows }: StoredStage,
  tensors: ReadonlyMap<string, RawTensor>,
): StageStatistics {
  const asFeatures = new Set(asRows);
  const terms = new Map<string, { tensor: RawTensor; size: number; features: number | null }>();
  const counts = new Map(Object.entries(rows));
  const widths = new Map(Object.entries(sizes));
  for (const [input, count] of counts) {
    const tensor = tensors.get(`${stage}|${input}`);
    const size = widths.get(input);
    const features = asFeatures.has(input) ? count : null;
    const length = size === undefined ? 0 : features === null ? packedLength(size) : features * size;
    const dtypes = features === null ? ['F64', 'F32'] : ['F32'];
    if (
      size === undefined ||
      tensor === undefined ||
      !dtypes.includes(tensor.dtype) ||
      elementCount(tensor.shape) !== length
    ) {
      const got = tensor === undefined ? 'none' : `${tensor.dtype} [${tensor.shape.join(', ')}]`;
      throw new FormatError(
        file,
        `expected ${length} numbers of ${dtypes.join(' or ')} for ${stage} ${input}, got ${got}`,
      );
    }
    terms.set(input, { tensor, size, features });
  }
  const stored = (input: string) => {
    const found = terms.get(input);
    if (found === undefined) throw new FormatError(file, `expected statistics of ${stage} ${input}`);
    return found;
  };
  const layers = new Map(Object.entries(inputOf));
  for (const [layerName, input] of layers) {
    if (!terms.has(input))
      throw new FormatError(file, `${stage} ${layerName}: expected statistics of its input "${input}"`);
  }
  return {
    inputOf: layers,
    rows: counts,
    term: (input, memory) => {
      const { tensor, size, features } = stored(input);
      const values =
        tensor.dtype === 'F64' ? readFloat64(tensor, memory?.take(packedLength(size))) : readFloat32(tensor);
      return termFrom(values, size, features);
    },
    termLater: async (input, memory) => {
      const { tensor, size, features } = stored(input);
      const values =
        tensor.dtype === 'F64'
          ? await readFloat64Later(tensor, memory?.take(packedLength(size)))
          : readFloat32(tensor);
      return termFrom(values, size, features);
    },
  };
}

/** Write where a collection stands. */
export async function writePartial(
  file: string,
  recipe: StatisticsKey,
  { runsDone, predictions, sums }: SpatialState,
): Promise<void> {
  const asRows: Record<string, number> = {};
  const tensors = [...sums].map(([input, sum]) => {
    if ('packed' in sum) return floats(`sum|${input}`, [sum.packed.length], sum.packed);
    asRows[input] = sum.features.length / sum.rows;
    return floats(`rows|${input}`, [sum.rows, asRows[input]], sum.features);
  });
  predictions.forEach((values, i) => {
    tensors.push(floats(`prediction|${i}`, [values.length], values));
  });
  const rows = Object.fromEntries([...sums].map(([input, sum]) => [input, sum.rows]));
  const header = { recipe, runsDone, predictions: predictions.length, rows, asRows };
  await writeSealed(file, PARTIAL_KEY, header, tensors);
}

/**
 * Where a collection stopped; `null` if the file is of another collection.
 * @throws {FormatError} if it is not such a file, or its content is not what was written
 */
export async function openPartial(file: string, recipe: StatisticsKey): Promise<SpatialState | null> {
  const held = await holdSafetensors(file);
  try {
    if (held.opened.metadata.has(FORMER_PARTIAL_KEY)) {
      throw new VersionError(file, 'expected sums in float64, got those of an earlier version in float32');
    }
    const header = openSealed(file, held, PARTIAL_KEY, partialSchema, 'unfinished statistics');
    if (canonicalRecipe(header.recipe) !== canonicalRecipe(recipe)) return null;
    const { steps } = recipe.options;
    if (header.predictions > steps) {
      throw new FormatError(file, `predictions: expected at most ${steps}, got ${header.predictions}`);
    }
    const tensor = (name: string, dtype: 'F32' | 'F64'): RawTensor => {
      const found = held.opened.tensors.get(name);
      if (found?.dtype !== dtype) {
        throw new FormatError(file, `expected a tensor "${name}" of ${dtype}, got ${found?.dtype ?? 'none'}`);
      }
      return found;
    };
    const sums = new Map<string, SumState>(
      Object.entries(header.rows).map(([input, rows]) => {
        if (Object.hasOwn(header.asRows, input)) {
          const features = readFloat32(tensor(`rows|${input}`, 'F32'));
          const width = header.asRows[input]!;
          if (rows === 0 || features.length !== rows * width) {
            throw new FormatError(
              file,
              `rows|${input}: expected [${rows}, ${width}], got ${features.length} numbers`,
            );
          }
          return [input, { features, rows }];
        }
        const packed = readFloat64(tensor(`sum|${input}`, 'F64'));
        const size = Math.round((Math.sqrt(1 + 8 * packed.length) - 1) / 2);
        if (packedLength(size) !== packed.length) {
          throw new FormatError(file, `sum|${input}: expected a triangle, got ${packed.length} numbers`);
        }
        return [input, { packed, rows }];
      }),
    );
    const predictions = Array.from({ length: header.predictions }, (_, i) =>
      readFloat32(tensor(`prediction|${i}`, 'F32')),
    );
    return { runsDone: header.runsDone, predictions, sums };
  } finally {
    held.close();
  }
}

function floats(name: string, shape: readonly number[], values: Float32Array | Float64Array): RawTensor {
  const { buffer, byteOffset, byteLength } = values;
  const dtype = values instanceof Float64Array ? 'F64' : 'F32';
  return memoryTensor(name, dtype, shape, new Uint8Array(buffer, byteOffset, byteLength));
}

/** Write a header in JSON with tensors, and the sha256 of both. */
async function writeSealed(
  file: string,
  key: string,
  header: object,
  tensors: readonly RawTensor[],
): Promise<void> {
  await writeSafetensors(file, tensors, {
    [key]: JSON.stringify({ ...header, sha256: sealOf(header, tensors) }),
  });
}

/** The header of a file by `writeSealed`. @throws {FormatError} if anything in it is not what was written */
function openSealed<T>(
  file: string,
  { opened }: HeldFile,
  key: string,
  schema: z.ZodType<T>,
  what: string,
): T {
  const text = opened.metadata.get(key);
  if (text === undefined)
    throw new FormatError(file, `expected ${what}, got a safetensors file of another kind`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(file, `expected a header of ${what} in JSON`, { cause });
  }
  const version = versionIn(value);
  if (version !== RECIPE_VERSION) {
    throw new VersionError(file, `expected ${what} of version ${RECIPE_VERSION}, got ${version ?? 'none'}`);
  }
  const { sha256, ...header } = value as { sha256?: unknown };
  const parsed = safeParse(schema, header);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new FormatError(file, `${what}: ${issue.path.join('.') || 'header'}: ${issue.message}`);
  }
  if (sealOf(header, opened.tensors.values()) !== sha256) {
    throw new FormatError(
      file,
      'expected what was collected, got something else: the file is damaged; delete it',
    );
  }
  return parsed.data;
}

/** The version that a header claims; `null` where it has none. */
function versionIn(value: unknown): number | null {
  const recipe = field(value, 'recipe');
  const version = field(recipe, 'version');
  return typeof version === 'number' ? version : null;
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
