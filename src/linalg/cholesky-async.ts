/**
 * The blocked Cholesky factorisation, and solves with it, with their matrix products computed elsewhere, for matrices of
 * thousands of rows.
 */
import { type CholeskyFactor, cholesky, diagonalOf, eliminatePanel, solveRows } from './cholesky.ts';
import { type MatmulEngine, timesTransposed } from './matmul-engine.ts';
import { assertSquare, type Matrix, matrix, transpose } from './matrix.ts';
import { addScaled } from './products.ts';

/** Columns factorised at a time: wide enough for the engine, narrow enough for plain loops over the diagonal's blocks. */
export const ASYNC_PANEL_WIDTH = 64;

/**
 * A = L Lᵀ for symmetric positive definite A [n, n]; A's lower triangle is overwritten by L. Differs from `cholesky`
 * in order: each panel takes all earlier columns into account at once (left-looking), as one product
 * L[begin:, :begin] · L[begin:end, :begin]ᵀ with a long inner axis; and what lies below a panel's diagonal block is divided
 * by that block as products with its inverse. n up to one panel needs no engine.
 *
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if a pivot is not positive, or A holds NaN or infinity; A is then spoilt
 */
export async function choleskyAsync(a: Matrix, engine: MatmulEngine): Promise<CholeskyFactor> {
  assertSquare('cholesky', a);
  const n = a.rows;
  if (n <= ASYNC_PANEL_WIDTH) return cholesky(a);
  const diagonal = diagonalOf(a);
  // The largest of all copies of finished columns.
  const scratch = new Float64Array(Math.ceil(n / 2) ** 2);
  for (let begin = 0; begin < n; begin += ASYNC_PANEL_WIDTH) {
    const end = Math.min(n, begin + ASYNC_PANEL_WIDTH);
    if (begin > 0) await subtractEarlierColumns(a, begin, end, engine, scratch);
    eliminatePanel(a, begin, end, diagonal, end);
    if (end < n) await divideBelow(a, begin, end, engine);
  }
  return { size: n, lower: a.data };
}

/** A[begin:, begin:end] −= L[begin:, :begin] · L[begin:end, :begin]ᵀ, in the lower triangle. */
async function subtractEarlierColumns(
  a: Matrix,
  begin: number,
  end: number,
  engine: MatmulEngine,
  scratch: Float64Array,
): Promise<void> {
  const n = a.rows;
  const left = blockOf(a, begin, n, 0, begin, scratch);
  const right = matrix(end - begin, begin, left.data.subarray(0, (end - begin) * begin));
  const { cols: width, data: product } = await timesTransposed(engine, left, right);
  for (let i = begin, from = 0; i < n; i++, from += width) {
    const row = i * n + begin;
    const last = Math.min(width, i + 1 - begin);
    for (let j = 0; j < last; j++) a.data[row + j]! -= product[from + j]!;
  }
}

/**
 * X D⁻ᵀ in place of X, the rows below the finished diagonal block D. By the inverse of D, and once more for what that
 * leaves: a product with an inverse alone loses as many digits as D's condition has.
 */
async function divideBelow(a: Matrix, begin: number, end: number, engine: MatmulEngine): Promise<void> {
  const n = a.rows;
  const given = blockOf(a, end, n, begin, end);
  const upper = upperOf(a, begin, end);
  const inverse = invertUpper(upper);
  const quotient = await engine(given, inverse);
  const product = await engine(quotient, upper);
  for (let i = 0; i < product.data.length; i++) given.data[i]! -= product.data[i]!;
  const rest = await engine(given, inverse);
  const width = end - begin;
  for (let i = end, from = 0; i < n; i++, from += width) {
    const row = i * n + begin;
    for (let j = 0; j < width; j++) a.data[row + j] = quotient.data[from + j]! + rest.data[from + j]!;
  }
}

/** Dᵀ of the lower triangular diagonal block D = A[begin:end, begin:end], zeros below its diagonal. */
function upperOf({ rows: n, data }: Matrix, begin: number, end: number): Matrix {
  const width = end - begin;
  const upper = matrix(width, width);
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) upper.data[j * width + i] = data[(begin + i) * n + begin + j]!;
  }
  return upper;
}

/** U⁻¹ of an upper triangular U, row by row from the last. */
function invertUpper(upper: Matrix): Matrix {
  const n = upper.rows;
  const inverse = matrix(n, n);
  for (let i = n - 1; i >= 0; i--) {
    const pivot = upper.data[i * n + i]!;
    inverse.data[i * n + i] = 1 / pivot;
    for (let k = i + 1; k < n; k++) {
      const factor = -upper.data[i * n + k]! / pivot;
      addScaled(factor, inverse.data, k * n + k, inverse.data, i * n + k, n - k);
    }
  }
  return inverse;
}

/** Unknowns solved for at a time, between two products. */
const SOLVE_WIDTH = 64;
/** Below this many multiplications a plain solve is as fast as copying panels for the engine. */
const SOLVE_FROM = 1 << 20;

/**
 * X = B A⁻¹ [k, n] for k right-hand sides as rows of B [k, n]: the same as `solveRows`, panel by panel, with what known
 * unknowns contribute to others as one product.
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
  const l = matrix(n, n, lower);
  const scratch = new Float64Array(SOLVE_WIDTH * n);
  const count = b.rows;
  // Unknowns in rows, so that those that are known stand in one run of memory.
  const columns = transpose(b);
  for (let begin = 0; begin < n; begin += SOLVE_WIDTH) {
    const end = Math.min(n, begin + SOLVE_WIDTH);
    if (begin > 0) {
      const known = matrix(begin, count, columns.data.subarray(0, begin * count));
      const product = await engine(blockOf(l, begin, end, 0, begin, scratch), known);
      addScaled(-1, product.data, 0, columns.data, begin * count, product.data.length);
    }
    for (let j = begin; j < end; j++) {
      for (let k = begin; k < j; k++) {
        addScaled(-lower[j * n + k]!, columns.data, k * count, columns.data, j * count, count);
      }
      const pivot = lower[j * n + j]!;
      for (let at = j * count; at < (j + 1) * count; at++) columns.data[at]! /= pivot;
    }
  }
  const x = transpose(columns);
  for (let end = n; end > 0; ) {
    const begin = SOLVE_WIDTH * Math.floor((end - 1) / SOLVE_WIDTH);
    for (let j = end - 1; j >= begin; j--) {
      const pivot = lower[j * n + j]!;
      for (let r = 0; r < count; r++) {
        const value = x.data[r * n + j]! / pivot;
        x.data[r * n + j] = value;
        addScaled(-value, lower, j * n + begin, x.data, r * n + begin, j - begin);
      }
    }
    if (begin > 0) {
      const known = blockOf(x, 0, count, begin, end);
      const product = await engine(known, blockOf(l, begin, end, 0, begin, scratch));
      for (let r = 0; r < count; r++) {
        addScaled(-1, product.data, r * begin, x.data, r * n, begin);
      }
    }
    end = begin;
  }
  return x;
}

/**
 * Rows [top, bottom) of columns [left, right) as a matrix of their own.
 * @param memory to write it to; default: new
 */
function blockOf(
  { cols, data }: Matrix,
  top: number,
  bottom: number,
  left: number,
  right: number,
  memory?: Float64Array,
): Matrix {
  const [rows, width] = [bottom - top, right - left];
  const result = matrix(rows, width, memory?.subarray(0, rows * width));
  for (let i = top, to = 0; i < bottom; i++, to += width) {
    result.data.set(data.subarray(i * cols + left, i * cols + right), to);
  }
  return result;
}
