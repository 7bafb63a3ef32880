/** Thin singular value decomposition: QR first, then the small square core. */
import { inOneGo, type Steps } from '../pace.ts';
import { assertFinite, type Matrix, matrix, transpose } from './matrix.ts';
import { multiplySteps } from './products.ts';
import { qrSteps } from './qr.ts';
import { squareSvdSteps } from './square-svd.ts';

/** A [m, n] = U diag(s) Vᵀ, k = min(m, n). */
export interface Svd {
  /** [m, k], orthonormal columns. */
  readonly u: Matrix;
  /** [k], descending, ≥ 0. */
  readonly singularValues: Float64Array;
  /** [n, k], orthonormal columns. */
  readonly v: Matrix;
}

/**
 * Thin SVD of A [m, n]. Signs, and bases of equal singular values, are free. A is not changed.
 *
 * @throws {NumericalError} if A holds NaN or infinity, or the iteration does not converge
 */
export function svd(a: Matrix): Svd {
  return inOneGo(svdSteps(a));
}

/** `svd` in steps, to the same bits. */
export function* svdSteps(a: Matrix): Steps<Svd> {
  assertFinite(`svd of a matrix [${a.rows}, ${a.cols}]`, a.data);
  if (a.rows < a.cols) {
    const { u, singularValues, v } = yield* svdSteps(transpose(a));
    return { u: v, singularValues, v: u };
  }
  const k = a.cols;
  if (k === 0) return { u: matrix(a.rows, 0), singularValues: new Float64Array(0), v: matrix(0, 0) };
  const { q, r } = yield* qrSteps(a);
  const { u, singularValues, v } = yield* squareSvdSteps(r);
  return { u: yield* multiplySteps(q, u), singularValues, v };
}
