/**
 * What other tools make of a merge, layer by layer, so that it can be told how far that is from the true sum.
 * Their arithmetic is reproduced as it is; none of it is used for merging here.
 */

import { UsageError } from '../errors.ts';
import { type LowRank, scale, sum, truncateSteps } from '../linalg/low-rank.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { nearestName } from '../nearest-name.ts';
import type { Steps } from '../pace.ts';
import { addTasks, mergeFactors, weightedSum } from './factors.ts';
import type { MergeTerm } from './method.ts';

/** One adapter's layer, with the alpha and rank that its file states. */
export interface StoredTerm extends MergeTerm {
  /** loraAlpha; the rank where the file has none. */
  readonly loraAlpha: number;
}

export interface ForeignMerge {
  readonly title: string;
  readonly source: string;
  /** What it does differently, in a sentence. */
  readonly defect: string;
  /**
   * @param rank asked of tools that truncate; `null`: the largest of the inputs
   * @throws {UsageError} where the tool refuses too, e.g. for unequal ranks
   */
  merge(terms: readonly StoredTerm[], rank: number | null): Steps<LowRank>;
}

/** Shared by both of sd-scripts' merges: every factor times √(alpha / first alpha) · ratio, up factors without the sign. */
function kohyaFactors({ up, down, loraAlpha, strength }: StoredTerm, first: StoredTerm): LowRank {
  const factor = Math.sqrt(loraAlpha / first.loraAlpha) * strength;
  const times = (a: Matrix, by: number): Matrix =>
    matrix(
      a.rows,
      a.cols,
      a.data.map((value) => value * by),
    );
  return { up: times(up, Math.abs(factor)), down: times(down, factor) };
}

function* kohyaLinear(terms: readonly StoredTerm[]): Steps<LowRank> {
  const first = terms[0]!;
  const rank = first.up.cols;
  const other = terms.find(({ up }) => up.cols !== rank);
  if (other !== undefined) {
    throw new UsageError(
      `kohya-merge: expected equal ranks, got ${rank} and ${other.up.cols}; the tool refuses this as well`,
    );
  }
  const parts = terms.map((term) => kohyaFactors(term, first));
  const add = function* (matrices: readonly Matrix[]): Steps<Matrix> {
    const values = yield* addTasks(matrices.map(({ data }) => ({ values: data, weight: 1 })));
    return matrix(matrices[0]!.rows, matrices[0]!.cols, values);
  };
  const up = yield* add(parts.map((part) => part.up));
  const merged = { up, down: yield* add(parts.map(({ down }) => down)) };
  return scale(merged, first.loraAlpha / rank);
}

function* kohyaConcat(terms: readonly StoredTerm[]): Steps<LowRank> {
  const first = terms[0]!;
  const joined = sum(terms.map((term) => kohyaFactors(term, first)));
  return scale(joined, first.loraAlpha / joined.up.cols);
}

/** Quantile by linear interpolation between order statistics, as torch.quantile. */
export function quantile(values: Float64Array, share: number): number {
  const sorted = Float64Array.from(values).sort();
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (place - below);
}

/**
 * U·S and Vᵀ of rank `rank`, both clamped at a quantile of all their numbers.
 * @param signs of the singular vectors, which the SVD leaves free and the quantile depends on; default: as they come
 */
export function* clampedSvd(
  delta: LowRank,
  rank: number,
  share: number,
  signs?: readonly number[],
): Steps<LowRank> {
  const { delta: cut, singularValues } = yield* truncateSteps(delta, rank);
  const kept = cut.up.cols;
  const up = Float64Array.from(cut.up.data);
  const down = Float64Array.from(cut.down.data);
  for (let k = 0; k < kept; k++) {
    const root = Math.sqrt(singularValues[k]!);
    const sign = signs?.[k] ?? 1;
    // truncate divides √s evenly; the tools leave all of s with U.
    for (let i = 0; i < cut.up.rows; i++) up[i * kept + k]! *= sign * root;
    const n = cut.down.cols;
    for (let j = 0; j < n; j++) down[k * n + j]! *= root > 0 ? sign / root : 0;
  }
  const all = new Float64Array(up.length + down.length);
  all.set(up);
  all.set(down, up.length);
  const limit = quantile(all, share);
  const clamp = (value: number): number => Math.min(limit, Math.max(-limit, value));
  return {
    up: matrix(cut.up.rows, kept, up.map(clamp)),
    down: matrix(kept, cut.down.cols, down.map(clamp)),
  };
}

const largest = (terms: readonly StoredTerm[]): number => Math.max(...terms.map(({ up }) => up.cols));

/** By the name that `--as` takes. */
export const foreignMerges = {
  'kohya-merge': {
    title: 'sd-scripts merge_lora.py',
    source: 'kohya-ss/sd-scripts@48d368fa, networks/merge_lora.py',
    defect: 'adds up- and down-factors separately (cross terms) and multiplies both by the ratio (ratio²)',
    merge: kohyaLinear,
  },
  'kohya-concat': {
    title: 'sd-scripts merge_lora.py --concat',
    source: 'kohya-ss/sd-scripts@48d368fa, networks/merge_lora.py',
    defect: 'alpha stays the first file’s while the rank grows, and the ratio enters twice',
    merge: kohyaConcat,
  },
  'kohya-svd-merge': {
    title: 'sd-scripts svd_merge_lora.py',
    source: 'kohya-ss/sd-scripts@48d368fa, networks/svd_merge_lora.py',
    defect: 'clamps U·S and V at their 0.99 quantile after the SVD',
    *merge(terms, rank) {
      return yield* clampedSvd(yield* weightedSum(terms), rank ?? largest(terms), 0.99);
    },
  },
  'peft-linear': {
    title: 'PEFT add_weighted_adapter, linear',
    source: 'PEFT 0.21, tuners/lora/model.py',
    defect: 'adds factors scaled by √weight (cross terms)',
    merge: (terms) => mergeFactors('peft-linear', terms, addTasks),
  },
  'peft-svd': {
    title: 'PEFT add_weighted_adapter, svd',
    source: 'PEFT 0.21, tuners/lora/model.py',
    defect: 'none beyond the truncation to the largest input rank',
    *merge(terms, rank) {
      const total = yield* weightedSum(terms);
      return (yield* truncateSteps(total, rank ?? largest(terms))).delta;
    },
  },
} as const satisfies Readonly<Record<string, ForeignMerge>>;

export type ForeignMergeName = keyof typeof foreignMerges;

export const foreignMergeNames = Object.keys(foreignMerges) as readonly ForeignMergeName[];

/** @throws {UsageError} naming the nearest tool */
export function foreignMerge(name: string): ForeignMerge {
  if (Object.hasOwn(foreignMerges, name)) return foreignMerges[name as ForeignMergeName];
  const nearest = nearestName(name, foreignMergeNames);
  throw new UsageError(
    `unknown merge "${name}"; ${nearest === null ? `expected one of ${foreignMergeNames.join(', ')}` : `did you mean "${nearest}"?`}`,
  );
}
