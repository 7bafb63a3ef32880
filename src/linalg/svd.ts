/** Thin singular value decomposition: QR first, then ml-matrix on the small square core. */
import { Matrix as MlMatrix, SingularValueDecomposition } from 'ml-matrix';
import { assertFinite, type Matrix, matrix, transpose } from './matrix.ts';
import { multiply } from './products.ts';
import { qr } from './qr.ts';

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
 * @throws {NumericalError} if A holds NaN or infinity
 */
export function svd(a: Matrix): Svd {
  assertFinite(`svd of a matrix [${a.rows}, ${a.cols}]`, a.data);
  if (a.rows < a.cols) {
    const { u, singularValues, v } = svd(transpose(a));
    return { u: v, singularValues, v: u };
  }
  const k = a.cols;
  if (k === 0) return { u: matrix(a.rows, 0), singularValues: new Float64Array(0), v: matrix(0, 0) };
  const { q, r } = qr(a);
  const core = new SingularValueDecomposition(MlMatrix.from1DArray(k, k, r.data));
  return {
    u: multiply(q, fromMl(core.leftSingularVectors)),
    singularValues: Float64Array.from(core.diagonal),
    v: fromMl(core.rightSingularVectors),
  };
}

function fromMl(m: MlMatrix): Matrix {
  return matrix(m.rows, m.columns, Float64Array.from(m.to1DArray()));
}
