/** The exact sum, then the best approximation of a rank. */
import { truncate } from '../../linalg/low-rank.ts';
import { weightedSum } from '../factors.ts';
import type { MergeMethod } from '../method.ts';

/** Singular values below this share of the largest are rounding. */
const ROUNDING = 1e-12;

export const svdMerge: MergeMethod = {
  title: 'Truncated SVD of the sum',
  idea: 'The exact weighted sum, then its best approximation of rank k; without a rank only what is zero is left out.',
  source: 'Eckart–Young; by QR of both factors and the SVD of the small core, no clamp of outliers',
  parameters: ['rank'],
  exact: true,
  merge: (terms, { rank }) => {
    const total = weightedSum(terms);
    if (rank !== null) return truncate(total, rank).delta;
    const { delta, singularValues } = truncate(total, total.up.cols);
    const significant = singularValues.findIndex((s) => s <= ROUNDING * singularValues[0]!);
    return significant < 0 ? delta : truncate(delta, Math.max(1, significant)).delta;
  },
};
