/**
 * The blocked Cholesky factorisation with its matrix products computed elsewhere, for matrices of thousands of rows.
 * Which engine computes them is the caller's choice: this layer knows none.
 */
import { type CholeskyFactor, cholesky, diagonalOf, eliminatePanel } from './cholesky.ts';
import { assertSquare, type Matrix, matrix } from './matrix.ts';

/** A B [m, k] of A [m, n] and B [n, k] in float64; must not keep or change them. */
export type MatmulEngine = (a: Matrix, b: Matrix) => Promise<Matrix>;

/** Columns factorised at a time: wide enough for the engine, narrow enough for the plain elimination of a panel. */
export const ASYNC_PANEL_WIDTH = 128;

/**
 * A = L Lᵀ for symmetric positive definite A [n, n]; A's lower triangle is overwritten by L. Differs from `cholesky`
 * in order only: each panel takes all earlier columns into account at once (left-looking), as one product
 * L[begin:, :begin] · L[begin:end, :begin]ᵀ with a long inner axis. n up to one panel needs no engine.
 *
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if a pivot is not positive, or A holds NaN or infinity; A is then spoilt
 */
export async function choleskyAsync(a: Matrix, engine: MatmulEngine): Promise<CholeskyFactor> {
  assertSquare('cholesky', a);
  const n = a.rows;
  if (n <= ASYNC_PANEL_WIDTH) return cholesky(a);
  const diagonal = diagonalOf(a);
  for (let begin = 0; begin < n; begin += ASYNC_PANEL_WIDTH) {
    const end = Math.min(n, begin + ASYNC_PANEL_WIDTH);
    if (begin > 0) await subtractEarlierColumns(a, begin, end, engine);
    eliminatePanel(a, begin, end, diagonal);
  }
  return { size: n, lower: a.data };
}

async function subtractEarlierColumns(
  a: Matrix,
  begin: number,
  end: number,
  engine: MatmulEngine,
): Promise<void> {
  const n = a.rows;
  const width = end - begin;
  const left = matrix(n - begin, begin);
  for (let i = begin; i < n; i++) left.data.set(a.data.subarray(i * n, i * n + begin), (i - begin) * begin);
  const right = matrix(begin, width);
  for (let j = 0; j < width; j++) {
    for (let k = 0; k < begin; k++) right.data[k * width + j] = left.data[j * begin + k]!;
  }
  const product = await engine(left, right);
  for (let i = begin; i < n; i++) {
    const from = (i - begin) * width;
    const last = Math.min(i + 1, end) - begin;
    for (let j = 0; j < last; j++) a.data[i * n + begin + j]! -= product.data[from + j]!;
  }
}
