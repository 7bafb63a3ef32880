/**
 * Null-space projection: the first change stays as it is, each further one loses what it does along the inputs that those
 * before it act on: ΔW_i (I − Qᵀ Q), the rows of Q their right singular vectors. What earlier adapters answer there is theirs
 * alone. Rank at most Σ r.
 */
import { decomposeSteps, frobeniusNormSteps, type LowRank } from '../../linalg/low-rank.ts';
import { truncateWith } from '../../linalg/low-rank-async.ts';
import { type Matrix, matrix, stackRows } from '../../linalg/matrix.ts';
import { dot, multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import type { Steps } from '../../pace.ts';
import { weightedSum } from '../factors.ts';
import type { MergeMethod, MergeTerm } from '../method.ts';

/** Singular values below this share of a change's norm are rounding: their directions are nobody's. */
const ROUNDING = 1e-10;

export const nullSpace: MergeMethod = {
  title: 'Null-space projection',
  idea: 'Each change without what it does to the inputs of those before it; the order of the files counts. Any ranks.',
  source: 'NP-LoRA, arXiv:2511.11051: its hard projection, of all directions',
  parameters: ['rank'],
  exact: false,
  merge: async (terms, { rank, engine, pace }) => {
    const total = await pace.run(weightedSum(await pace.run(projected(terms))));
    return rank === null ? total : (await truncateWith(total, rank, engine, pace)).delta;
  },
};

function* projected(terms: readonly MergeTerm[]): Steps<MergeTerm[]> {
  let taken = matrix(0, terms[0]!.down.cols);
  const results: MergeTerm[] = [];
  for (const term of terms) {
    const along = yield* multiplySteps(yield* multiplyTransposedSteps(term.down, taken), taken);
    const data = term.down.data.map((value, i) => value - along.data[i]!);
    const kept = { ...term, down: { ...term.down, data } };
    results.push(kept);
    taken = stackRows(taken.cols, [taken, yield* directions(kept, yield* frobeniusNormSteps(term))]);
  }
  return results;
}

/** Right singular vectors [k, n] of a change. @param norm of what it was */
function* directions({ up, down }: LowRank, norm: number): Steps<Matrix> {
  const { singularValues, truncate } = yield* decomposeSteps({ up, down });
  const rank = singularValues.filter((value) => value > ROUNDING * norm).length;
  const { delta } = yield* truncate(rank);
  const { data, cols } = delta.down;
  for (let row = 0; row < rank; row++) {
    const length = Math.sqrt(dot(data, row * cols, data, row * cols, cols));
    for (let i = 0; i < cols; i++) data[row * cols + i]! /= length;
  }
  return delta.down;
}
