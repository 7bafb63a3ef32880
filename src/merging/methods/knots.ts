/**
 * KnOTS: bring the changes of all adapters into one basis, then elect and average there. [ΔW₁ … ΔW_T] = U Σ [V₁ … V_T]ᵀ;
 * TIES merges the V_i, and U Σ V is the result. All from factors: the columns of U lie in the span of the up factors, so
 * the SVD is that of a core with Σ r rows. No truncation is needed, the rank is at most Σ r.
 */
import type { LowRank } from '../../linalg/low-rank.ts';
import { truncateWith } from '../../linalg/low-rank-async.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import { multiplySteps } from '../../linalg/products.ts';
import { qrSteps } from '../../linalg/qr.ts';
import { svdSteps } from '../../linalg/svd.ts';
import type { Steps } from '../../pace.ts';
import type { Task } from '../factors.ts';
import type { MergeMethod, MergeTerm } from '../method.ts';
import { electAndMerge, keepLargest } from './pruning.ts';

/** Singular values below this share of the largest are rounding: their V is noise. */
const ROUNDING = 1e-10;

export const knots: MergeMethod = {
  title: 'KnOTS with TIES',
  idea: 'Aligns the changes by a common SVD, then trims, elects signs and averages in that basis. Any ranks.',
  source: 'KnOTS, arXiv:2410.19735, §3',
  parameters: ['density', 'majoritySign', 'rank'],
  exact: false,
  merge: async (terms, { density, majoritySign, rank, engine, pace }) => {
    const aligned = await pace.run(align(terms));
    const tasks: Task[] = aligned.rights.map((right, i) => ({
      values: right.data,
      weight: terms[i]!.strength,
    }));
    const kept: Task[] = [];
    for (const task of tasks) kept.push(await pace.run(keepLargest(task, density)));
    const merged = await pace.run(electAndMerge(kept, majoritySign));
    const delta: LowRank = { up: aligned.left, down: matrix(aligned.left.cols, terms[0]!.down.cols, merged) };
    return rank === null ? delta : (await truncateWith(delta, rank, engine, pace)).delta;
  },
};

/** U Σ [m, k] and V_iᵀ [k, n] per term, of ΔW_i without strengths. */
function* align(terms: readonly MergeTerm[]): Steps<{ left: Matrix; rights: Matrix[] }> {
  const m = terms[0]!.up.rows;
  const n = terms[0]!.down.cols;
  const total = terms.reduce((sum, { up }) => sum + up.cols, 0);
  const ups = matrix(m, total);
  let column = 0;
  for (const { up } of terms) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < up.cols; j++) ups.data[i * total + column + j] = up.data[i * up.cols + j]!;
    }
    column += up.cols;
  }
  const { q, r } = yield* qrSteps(ups);
  // Core [k, T · n]: the blocks are R_i down_i, scales inside.
  const core = matrix(r.rows, terms.length * n);
  column = 0;
  for (const [t, { up, down, scale }] of terms.entries()) {
    const block = matrix(r.rows, up.cols);
    for (let i = 0; i < r.rows; i++) {
      for (let j = 0; j < up.cols; j++) block.data[i * up.cols + j] = scale * r.data[i * total + column + j]!;
    }
    const product = yield* multiplySteps(block, down);
    for (let i = 0; i < r.rows; i++) {
      core.data.set(product.data.subarray(i * n, (i + 1) * n), i * core.cols + t * n);
    }
    column += up.cols;
  }
  const { u, singularValues, v } = yield* svdSteps(core);
  const kept = Math.max(1, singularValues.filter((s) => s > ROUNDING * singularValues[0]!).length);
  const scaled = matrix(u.rows, kept);
  for (let i = 0; i < u.rows; i++) {
    for (let j = 0; j < kept; j++) scaled.data[i * kept + j] = u.data[i * u.cols + j]! * singularValues[j]!;
  }
  const rights = terms.map((_, t) => {
    const right = matrix(kept, n);
    for (let k = 0; k < kept; k++) {
      for (let j = 0; j < n; j++) right.data[k * n + j] = v.data[(t * n + j) * v.cols + k]!;
    }
    return right;
  });
  return { left: yield* multiplySteps(q, scaled), rights };
}
