/** Thin singular value decomposition: QR first, then the small square core. */
import { Matrix as MlMatrix, SingularValueDecomposition } from 'ml-matrix';
import { inOneGo, type Steps } from '../pace.ts';
import { assertFinite, type Matrix, matrix, transpose } from './matrix.ts';
import { multiplySteps } from './products.ts';
import { qrSteps } from './qr.ts';
import { type SquareSvd, squareSvdSteps } from './square-svd.ts';

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
  const { u, singularValues, v } = isSmall(r) ? smallSvd(r) : yield* squareSvdSteps(r);
  return { u: yield* multiplySteps(q, u), singularValues, v };
}

/** Columns that the library takes some milliseconds for; it holds the thread meanwhile. */
const SMALL = 64;
/** Numbers whose squares and products stay finite and exact: with others the library's iteration may never end. */
const [LEAST, MOST] = [1e-100, 1e100];

function isSmall({ rows, data }: Matrix): boolean {
  return (
    rows <= SMALL && data.every((value) => value === 0 || (Math.abs(value) > LEAST && Math.abs(value) < MOST))
  );
}

/** The library's own decomposition, whose bits `squareSvdSteps` has. */
function smallSvd(a: Matrix): SquareSvd {
  const core = new SingularValueDecomposition(MlMatrix.from1DArray(a.rows, a.cols, a.data));
  return {
    u: fromMl(core.leftSingularVectors),
    singularValues: Float64Array.from(core.diagonal),
    v: fromMl(core.rightSingularVectors),
  };
}

function fromMl(m: MlMatrix): Matrix {
  return matrix(m.rows, m.columns, Float64Array.from(m.to1DArray()));
}
