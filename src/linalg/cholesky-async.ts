/**
 * The blocked Cholesky factorisation, and solves with it, with their matrix products computed elsewhere, for matrices of
 * thousands of rows.
 * Which engine computes them is the caller's choice: this layer knows none.
 */
import { type CholeskyFactor, cholesky, diagonalOf, eliminatePanel, solveRows } from './cholesky.ts';
import { assertSquare, type Matrix, matrix } from './matrix.ts';
import { addScaled, dot } from './products.ts';

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

/** Unknowns solved for at a time, between two products. */
const SOLVE_WIDTH = 256;
/** Below this many multiplications a plain solve is as fast as copying panels for the engine. */
const SOLVE_FROM = 1 << 26;

/**
 * X = B A⁻¹ [k, n] for k right-hand sides as rows of B [k, n]: the same as `solveRows`, panel by panel, with what all
 * solved unknowns contribute to the next panel as one product.
 * @param from multiplications k · n² from which the engine is used
 * @throws {ShapeError} if the widths differ
 */
export async function solveRowsAsync(
  factor: CholeskyFactor,
  b: Matrix,
  engine: MatmulEngine,
  from: number = SOLVE_FROM,
): Promise<Matrix> {
  const { size: n, lower } = factor;
  if (b.cols !== n || b.rows * n * n < from) return solveRows(factor, b);
  const x = matrix(b.rows, n, Float64Array.from(b.data));
  for (let begin = 0; begin < n; begin += SOLVE_WIDTH) {
    const end = Math.min(n, begin + SOLVE_WIDTH);
    if (begin > 0) {
      const solved = columnsOf(x, 0, begin);
      const rows = matrix(begin, end - begin);
      for (let j = begin; j < end; j++) {
        for (let k = 0; k < begin; k++) rows.data[k * rows.cols + j - begin] = lower[j * n + k]!;
      }
      subtractColumns(x, begin, await engine(solved, rows));
    }
    for (let j = begin; j < end; j++) {
      for (let r = 0; r < x.rows; r++) {
        const at = r * n + j;
        const known = dot(lower, j * n + begin, x.data, r * n + begin, j - begin);
        x.data[at] = (x.data[at]! - known) / lower[j * n + j]!;
      }
    }
  }
  for (let end = n; end > 0; end -= Math.min(end, SOLVE_WIDTH)) {
    const begin = Math.max(0, end - SOLVE_WIDTH);
    if (end < n) {
      const rows = matrix(n - end, end - begin);
      for (let i = end; i < n; i++) {
        rows.data.set(lower.subarray(i * n + begin, i * n + end), (i - end) * rows.cols);
      }
      subtractColumns(x, begin, await engine(columnsOf(x, end, n), rows));
    }
    for (let j = end - 1; j >= begin; j--) {
      for (let r = 0; r < x.rows; r++) {
        const value = x.data[r * n + j]! / lower[j * n + j]!;
        x.data[r * n + j] = value;
        addScaled(-value, lower, j * n + begin, x.data, r * n + begin, j - begin);
      }
    }
  }
  return x;
}

/** Columns [begin, end) as a matrix of their own. */
function columnsOf({ rows, cols, data }: Matrix, begin: number, end: number): Matrix {
  const result = matrix(rows, end - begin);
  for (let r = 0; r < rows; r++) {
    result.data.set(data.subarray(r * cols + begin, r * cols + end), r * result.cols);
  }
  return result;
}

/** x[:, begin:] −= product, as wide as the product is. */
function subtractColumns(x: Matrix, begin: number, product: Matrix): void {
  for (let r = 0; r < x.rows; r++) {
    addScaled(-1, product.data, r * product.cols, x.data, r * x.cols + begin, product.cols);
  }
}
