/** The inverse of a matrix where there is one, and least squares where there is none. */
import { NumericalError } from '../errors.ts';
import type { Steps } from '../pace.ts';
import { type Matrix, matrix, transpose } from './matrix.ts';
import { qrSteps } from './qr.ts';

/**
 * A⁺ [n, m] of A [m, n] of full rank: A⁻¹ of a square A, the x of least ‖A x − b‖ of a tall one, the shortest x with A x = b
 * of a wide one.
 * @throws {NumericalError} if A has not full rank
 */
export function* pseudoInverseSteps(a: Matrix): Steps<Matrix> {
  if (a.rows < a.cols) return transpose(yield* pseudoInverseSteps(transpose(a)));
  const { q, r } = yield* qrSteps(a);
  const n = a.cols;
  const diagonal = Array.from({ length: n }, (_, i) => Math.abs(r.data[i * n + i]!));
  const least = Math.max(...diagonal) * a.rows * Number.EPSILON;
  const bad = diagonal.findIndex((value) => !(value > least));
  if (bad >= 0) {
    throw new NumericalError(
      `inverse of [${a.rows}, ${a.cols}]: expected full rank, got a column ${bad} that those before it make up`,
      { value: diagonal[bad]! },
    );
  }
  // R X = Qᵀ, from the last row up.
  const x = matrix(n, a.rows, transpose(q).data);
  for (let i = n - 1; i >= 0; i--) {
    yield;
    const row = x.data.subarray(i * a.rows, (i + 1) * a.rows);
    for (let j = i + 1; j < n; j++) {
      const factor = r.data[i * n + j]!;
      const below = x.data.subarray(j * a.rows, (j + 1) * a.rows);
      for (let k = 0; k < row.length; k++) row[k]! -= factor * below[k]!;
    }
    const pivot = r.data[i * n + i]!;
    for (let k = 0; k < row.length; k++) row[k]! /= pivot;
  }
  return x;
}
