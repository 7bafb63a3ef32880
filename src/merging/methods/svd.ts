/** The exact sum, then the best approximation of a rank. */
import { decomposeSteps } from '../../linalg/low-rank.ts';
import { truncateWith } from '../../linalg/low-rank-async.ts';
import { weightedSum } from '../factors.ts';
import type { MergeMethod } from '../method.ts';

/** Singular values below this share of the largest are rounding. */
const ROUNDING = 1e-12;

export const svdMerge: MergeMethod = {
  title: 'Truncated SVD of the sum',
  idea: 'The exact weighted sum, then its best approximation of rank k; without a rank only what is zero is left out.',
  source: 'Eckart–Young; from the small core between the factors, no clamp of outliers',
  parameters: ['rank'],
  exact: true,
  merge: async (terms, { rank, engine, pace }) => {
    const total = await pace.run(weightedSum(terms));
    if (rank !== null) return (await truncateWith(total, rank, engine, pace)).delta;
    const { singularValues, truncate } = await pace.run(decomposeSteps(total));
    const significant = singularValues.findIndex((s) => s <= ROUNDING * singularValues[0]!);
    const kept = significant < 0 ? singularValues.length : Math.max(1, significant);
    return (await pace.run(truncate(kept))).delta;
  },
};
