/** The difference of two checkpoints as a LoRA: per layer the nearest change of a rank, by a randomised range finder. */

import type { AdapterModule, LoraLayer } from '../adapters/adapter.ts';
import { encodeLayer, type FactorDType } from '../adapters/encode-layer.ts';
import { readFinite } from '../adapters/finite.ts';
import type { OutputAdapter, UnsupportedEntry } from '../adapters/write.ts';
import { MismatchError, UsageError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import * as path from '../io/platform/paths.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { matrix } from '../linalg/matrix.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import { isKnownLayer } from '../models/families/known-layers.ts';
import { Pace, type Steps } from '../pace.ts';
import type { SubjectProgress } from '../progress.ts';
import { layerContext } from './merge.ts';
import { MERGE_DEFAULTS } from './method.ts';
import type { ModelFiles } from './model-files.ts';
import { truncateDense } from './range-finder.ts';

/** Which layers to extract: attention alone; with feed-forward and projections; every linear layer; convolutions too. */
export const layerChoices = ['attention', 'transformer', 'linear', 'all'] as const;
export type LayerChoice = (typeof layerChoices)[number];

export interface ExtractOptions {
  /** Of linear layers and 1 × 1 convolutions; ≥ 1. */
  readonly rank: number;
  /** Of larger convolutions; default `rank`. */
  readonly convRank?: number;
  /** Default `transformer`. */
  readonly layers?: LayerChoice;
  /** Layers whose largest change is at most this are left out as unchanged. Default 0. */
  readonly minDifference?: number;
  /** Default F32. */
  readonly dtype?: FactorDType;
  /** Default 0. */
  readonly seed?: number;
  readonly engine?: MatmulEngine;
  readonly onProgress?: (progress: SubjectProgress) => void;
  /** Its reason is thrown once it is aborted. */
  readonly signal?: AbortSignal;
}

export interface ExtractedLayer {
  readonly id: string;
  readonly rank: number;
  /** ‖ΔW − LoRA‖ / ‖ΔW‖. */
  readonly relativeError: number;
  /** ‖ΔW‖_F. */
  readonly norm: number;
}

export interface Extraction {
  readonly output: OutputAdapter;
  readonly layers: readonly ExtractedLayer[];
  /** Changed tensors that are not in the result: layers not chosen, biases, normalisations, embeddings. */
  readonly unsupported: readonly UnsupportedEntry[];
}

function isChosen(
  { component, layerName }: AdapterModule,
  shape: readonly number[],
  choice: LayerChoice,
): boolean {
  if (!isKnownLayer({ component, layerName })) return false;
  const isWide = shape.length === 4 && shape[2]! * shape[3]! > 1;
  const attention = /\.(attn[12]|self_attn)\./.test(layerName);
  switch (choice) {
    case 'attention':
      return attention;
    case 'transformer':
      return attention || /\.ff\.|\.mlp\.|\.proj_(in|out)$/.test(layerName);
    case 'linear':
      return !isWide;
    case 'all':
      return true;
  }
}

/**
 * Extract tuned − base.
 * @throws {MismatchError} if the models differ in architecture or in a layer's shape
 * @throws {UsageError} on ranks out of range, or if nothing differs
 */
export async function extractAdapter(
  tuned: ModelFiles,
  base: ModelFiles,
  options: ExtractOptions,
): Promise<Extraction> {
  const {
    rank,
    convRank = rank,
    layers: choice = 'transformer',
    minDifference = 0,
    dtype = 'F32',
    seed = 0,
  } = options;
  for (const value of [rank, convRank]) {
    if (!(Number.isInteger(value) && value >= 1)) {
      throw new UsageError(`rank: expected a whole number of 1 or more, got ${value}`);
    }
  }
  if (!(minDifference >= 0)) throw new UsageError(`min difference: expected 0 or more, got ${minDifference}`);
  if (tuned.architecture !== base.architecture) {
    throw new MismatchError(`${tuned.path} and ${base.path} are models of different architectures`);
  }
  const unsupported: UnsupportedEntry[] = [];
  const layers: LoraLayer[] = [];
  const reports: ExtractedLayer[] = [];
  const entries = tuned.parts.flatMap(({ tensors }) =>
    tensors.flatMap(({ name, layers }) => layers.map((layer) => ({ name, ...layer }))),
  );
  const pace = new Pace(options.signal);
  let done = 0;
  for (const { name, tensor, module, param } of entries) {
    options.onProgress?.({ done: ++done, total: entries.length, subject: name });
    await pace.turn();
    const id = adapterModuleId(module);
    const before = (param === 'weight' ? base.weights : base.biases).get(id);
    if (before === undefined) {
      unsupported.push({ name, reason: 'only in the tuned model' });
      continue;
    }
    const kernel: readonly [number, number] | null =
      tensor.shape.length === 4 ? [tensor.shape[2]!, tensor.shape[3]!] : null;
    if (tensor.shape.join() !== before.shape.join()) {
      if (isKnownShape(module)) {
        throw new MismatchError(
          `${name}: expected [${before.shape.join(', ')}] as in ${base.path}, got [${tensor.shape.join(', ')}]`,
        );
      }
      unsupported.push({
        name,
        reason: `[${tensor.shape.join(', ')}] in place of [${before.shape.join(', ')}]`,
      });
      continue;
    }
    const { difference, largest, squares } = await pace.run(differenceOf(tensor, before));
    if (!(largest > minDifference)) continue;
    if (param === 'bias' || tensor.shape.length < 2 || !isChosen(module, tensor.shape, choice)) {
      unsupported.push({
        name,
        reason: `changed by up to ${largest.toPrecision(3)}, not among the layers chosen`,
      });
      continue;
    }
    const m = tensor.shape[0]!;
    const dense = matrix(m, difference.length / m, difference);
    const most = kernel !== null && kernel[0] * kernel[1] > 1 ? convRank : rank;
    const cut = await truncateDense(
      dense,
      Math.min(most, dense.rows, dense.cols),
      layerContext(id, seed, MERGE_DEFAULTS, { engine: options.engine, pace }),
    );
    const layer = encodeLayer(module, kernel, cut.delta, dtype);
    layers.push(layer);
    reports.push({ id, rank: layer.rank!, relativeError: cut.relativeError, norm: Math.sqrt(squares) });
  }
  if (layers.length === 0) {
    throw new UsageError(
      `${tuned.path} and ${base.path} do not differ in the layers chosen${unsupported.length > 0 ? ` (${unsupported.length} other tensors do; \`layers\` chooses)` : ''}`,
    );
  }
  const titles = [path.parse(tuned.path).name, path.parse(base.path).name];
  return {
    output: {
      architecture: base.architecture,
      layers,
      words: [],
      title: titles.join(' − '),
      mergedFrom: titles,
    },
    layers: reports,
    unsupported,
  };
}

/** Embedding tables grow with new words; everything else must fit. */
function isKnownShape({ layerName }: AdapterModule): boolean {
  return !layerName.includes('embedding');
}

interface Difference {
  readonly difference: Float64Array;
  readonly largest: number;
  /** Sum of the squares. */
  readonly squares: number;
}

/** Numbers between two steps. */
const PIECE = 1 << 20;

function* differenceOf(after: RawTensor, before: RawTensor): Steps<Difference> {
  const old = readFinite(before);
  yield;
  const difference = readFinite(after).slice();
  let [largest, squares] = [0, 0];
  for (let begin = 0; begin < difference.length; begin += PIECE) {
    yield;
    const end = Math.min(difference.length, begin + PIECE);
    for (let i = begin; i < end; i++) {
      const value = difference[i]! - old[i]!;
      difference[i] = value;
      squares += value * value;
      const size = Math.abs(value);
      if (size > largest) largest = size;
    }
  }
  return { difference, largest, squares };
}
