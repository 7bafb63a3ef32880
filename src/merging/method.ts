/** What a way to merge the changes of several adapters in one layer is; methods/ has one a file, and their table. */

import { UsageError } from '../errors.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import type { Pace, Steps } from '../pace.ts';

/** One adapter's change of a layer, ΔW = scale · up · down, and how much of it is wanted. */
export interface MergeTerm extends LowRank {
  readonly scale: number;
  /** May be negative. */
  readonly strength: number;
}

export type MajoritySign = 'total' | 'frequency';

/** What a run of a method may set. */
export interface MergeSettings {
  /** Rank of the result, where the method truncates; `null`: see the method. */
  readonly rank: number | null;
  /** Share of the numbers that pruning keeps, in (0, 1]. */
  readonly density: number;
  /** TIES' election: by the sum of the numbers, or by how many there are of each sign. */
  readonly majoritySign: MajoritySign;
}

export const MERGE_DEFAULTS: MergeSettings = { rank: null, density: 0.5, majoritySign: 'total' };

export interface MergeContext extends MergeSettings {
  /** Which of `count` numbers DARE keeps, each with probability `density`; seeded per layer. */
  readonly keepMask: (count: number, density: number) => Steps<Uint8Array>;
  /** Gaussian numbers for randomised factorisations; seeded per layer. */
  readonly gaussians: (count: number) => Steps<Float64Array>;
  /** Large matrix products. */
  readonly engine: MatmulEngine;
  /** Of everything that takes long. */
  readonly pace: Pace;
}

export type MergeParameter = 'rank' | 'density' | 'majoritySign' | 'seed';

export interface MergeMethod {
  readonly title: string;
  /** What it does, in a sentence. */
  readonly idea: string;
  readonly source: string;
  readonly parameters: readonly MergeParameter[];
  /** Whether the result is the weighted sum itself, up to the truncation that `rank` asks for. */
  readonly exact: boolean;
  /**
   * @param terms at least one, of one shape
   * @throws {UsageError} if the method is not defined for these terms, e.g. for unequal ranks
   */
  merge(terms: readonly MergeTerm[], context: MergeContext): Promise<LowRank>;
}

/** @throws {UsageError} if a setting is out of range */
export function checkMergeSettings({ rank, density }: MergeSettings): void {
  if (rank !== null && !(Number.isInteger(rank) && rank >= 1)) {
    throw new UsageError(`rank: expected a whole number of 1 or more, got ${rank}`);
  }
  if (!(density > 0 && density <= 1)) {
    throw new UsageError(`density: expected a number above 0, up to 1, got ${density}`);
  }
}
