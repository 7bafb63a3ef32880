/** Fewer factors for every layer of an adapter: fixed ranks, or as many as the layer's spectrum asks for. */
import { UsageError } from '../errors.ts';
import type { LowRank, Truncation } from '../linalg/low-rank.ts';
import { decomposeWith } from '../linalg/low-rank-async.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { Pace } from '../pace.ts';
import { checkRankRule, keptRank, type RankRule } from './kept-rank.ts';

export interface ResizeOptions {
  readonly rule: RankRule;
  /** The rank, or with a rule the largest allowed; ≥ 1. */
  readonly rank: number;
  /** The same for convolutions, 1 × 1 included (as sd-scripts counts); default `rank`. */
  readonly convRank?: number;
}

/** @throws {UsageError} if ranks or target are out of range */
export function checkResizeOptions({ rule, rank, convRank = rank }: ResizeOptions): void {
  checkRankRule(rule);
  for (const value of [rank, convRank]) {
    if (!(Number.isInteger(value) && value >= 1)) {
      throw new UsageError(`rank: expected a whole number of 1 or more, got ${value}`);
    }
  }
}

export interface ResizedLayer extends Truncation {
  /** Ranks of the kept factors. */
  readonly rank: number;
}

/**
 * Cut one layer's change.
 * @param delta  ΔW / scale: sd-scripts judges the product without alpha / rank, which no rule depends on
 * @param isConv whether the layer is a convolution
 * @param engine large products
 */
export async function resizeDelta(
  delta: LowRank,
  isConv: boolean,
  options: ResizeOptions,
  engine: MatmulEngine,
  pace: Pace = new Pace(),
): Promise<ResizedLayer> {
  const most = isConv ? (options.convRank ?? options.rank) : options.rank;
  const full = Math.min(delta.up.rows, delta.down.cols);
  const exact = await decomposeWith(delta, engine, pace);
  // The rules look at min(m, n) values; beyond the factors' rank they are zero.
  const spectrum = new Float64Array(full);
  spectrum.set(exact.singularValues.subarray(0, full));
  const rank = Math.max(
    1,
    Math.min(keptRank(spectrum, options.rule, most), exact.singularValues.length, full),
  );
  return { ...(await exact.truncate(rank)), rank };
}
