/**
 * The largest singular directions of a matrix that is not given as factors, by a randomised range finder with power
 * iterations: products with thin matrices only, which the graph runtime computes. Small matrices are factorised exactly.
 * Source: Halko, Martinsson & Tropp, arXiv:0909.4061, algorithms 4.4 and 5.1.
 */

import { wholeDelta } from '../adapters/delta.ts';
import { UsageError } from '../errors.ts';
import { type LowRank, type Truncation, truncateSteps } from '../linalg/low-rank.ts';
import { truncateWith } from '../linalg/low-rank-async.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { assertFinite, type Matrix, matrix, transpose } from '../linalg/matrix.ts';
import { dot } from '../linalg/products.ts';
import { qrSteps } from '../linalg/qr.ts';
import { Pace, type Steps } from '../pace.ts';
import { largestRank } from './factors.ts';
import type { MergeContext, MergeTerm } from './method.ts';

export interface RangeFinderOptions {
  readonly engine: MatmulEngine;
  /** `count` independent standard normal numbers. */
  readonly gaussians: (count: number) => Steps<Float64Array>;
  /** Directions beyond the rank that are followed along. Default 10. */
  readonly oversampling?: number;
  /** Passes over the matrix and back. Default 3: the error is then within about 1 % of the best for slow spectra. */
  readonly powerIterations?: number;
  readonly pace?: Pace;
}

/** Up to this size the exact factorisation is quick. */
const EXACT_SIZE = 128;

/**
 * The best, or with large matrices a nearly best, approximation of D of rank ≤ `rank`, and its true error.
 * @param dense D [m, n]
 * @throws {UsageError} if rank is not a whole number ≥ 0; {NumericalError} if D is not finite
 */
export async function truncateDense(
  dense: Matrix,
  rank: number,
  { engine, gaussians, oversampling = 10, powerIterations = 3, pace = new Pace() }: RangeFinderOptions,
): Promise<Truncation> {
  if (!Number.isInteger(rank) || rank < 0) {
    throw new UsageError(`rank: expected a whole number of 0 or more, got ${rank}`);
  }
  const { rows: m, cols: n, data } = dense;
  const sketch = Math.min(rank + oversampling, m, n);
  if (Math.min(m, n) <= EXACT_SIZE || sketch === Math.min(m, n)) {
    return pace.run(truncateSteps(wholeDelta(dense), rank));
  }
  assertFinite('range finder', data);
  const random = matrix(n, sketch, await pace.run(gaussians(n * sketch)));
  let { q } = await pace.run(qrSteps(await engine(dense, random)));
  for (let i = 0; i < powerIterations; i++) {
    const back = await pace.run(qrSteps(transpose(await engine(transpose(q), dense))));
    ({ q } = await pace.run(qrSteps(await engine(dense, back.q))));
  }
  const core = { up: q, down: await engine(transpose(q), dense) };
  const { delta, singularValues } = await truncateWith(core, rank, engine, pace);
  const total = dot(data, 0, data, 0, data.length);
  const kept = singularValues.slice(0, rank).reduce((sum, s) => sum + s * s, 0);
  return {
    delta,
    singularValues,
    relativeError: total > 0 ? Math.sqrt(Math.max(0, total - kept) / total) : 0,
  };
}

/** What a method made of whole changes, cut to the rank asked for; without one, to the largest of the inputs. */
export async function truncateMerged(
  dense: Matrix,
  terms: readonly MergeTerm[],
  context: MergeContext,
): Promise<LowRank> {
  return (await truncateDense(dense, context.rank ?? largestRank(terms), context)).delta;
}
