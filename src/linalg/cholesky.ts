/**
 * Blocked Cholesky factorisation A = L Lᵀ in place, and solves with many right-hand sides given as rows.
 * Only the lower triangle of A is read and written.
 *
 * The loop alternates two steps, `eliminatePanel` (small, sequential) and `updateTrailing` (nearly all of the
 * arithmetic, one matrix product); they are separate so that a caller may compute the second one elsewhere.
 */
import { NumericalError, ShapeError } from '../errors.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { assertSquare, type Matrix, matrix } from './matrix.ts';
import { addScaled, addSymmetricProduct, dot } from './products.ts';

/** Columns factorised at a time. */
export const PANEL_WIDTH = 64;

/** Unknowns solved for between two steps. */
const STEP_COLUMNS = 8;

/** L in the lower triangle (diagonal included) of a row-major [n, n]; what lies above is left as it was. */
export interface CholeskyFactor {
  readonly size: number;
  readonly lower: Float64Array;
}

/**
 * Factorise columns [begin, end) of A, whose earlier columns were already eliminated from the trailing block.
 *
 * @param a  [n, n], modified
 * @param diagonal  the diagonal before any step; a pivot below size · 2⁻⁵² of its own entry has no correct digit left
 * @param place  where A begins, if it is a diagonal block of a larger matrix, whose diagonal is given then
 * @throws {NumericalError} naming the pivot that is not positive
 */
export function eliminatePanel(
  a: Matrix,
  begin: number,
  end: number,
  diagonal: Float64Array,
  { first, size }: { readonly first: number; readonly size: number } = { first: 0, size: a.rows },
): void {
  const n = a.rows;
  const data = a.data;
  const lowest = size * Number.EPSILON;
  for (let i = begin; i < n; i++) {
    const row = i * n + begin;
    const last = Math.min(i, end);
    for (let j = begin; j < last; j++) {
      const other = j * n + begin;
      data[i * n + j] = (data[i * n + j]! - dot(data, row, data, other, j - begin)) / data[j * n + j]!;
    }
    if (i < end) {
      const pivot = data[i * n + i]! - dot(data, row, data, row, i - begin);
      const least = lowest * diagonal[first + i]!;
      if (!(pivot > least) || !Number.isFinite(pivot)) {
        throw new NumericalError(
          `matrix [${size}, ${size}] not positive definite at pivot ${first + i}: expected more than ` +
            `${least.toExponential(2)}, got ${pivot.toExponential(2)}`,
          { value: pivot },
        );
      }
      data[i * n + i] = Math.sqrt(pivot);
    }
  }
}

/** A₂₂ −= L₂₁ L₂₁ᵀ: take the finished columns [begin, end) out of the rows and columns from `end` on. */
export function updateTrailing(a: Matrix, begin: number, end: number): void {
  const n = a.rows;
  const size = n - end;
  const depth = end - begin;
  const panel = new Float64Array(size * depth);
  for (let i = 0; i < size; i++) {
    const row = (end + i) * n;
    panel.set(a.data.subarray(row + begin, row + end), i * depth);
  }
  addSymmetricProduct(a.data, end * n + end, n, -1, panel, size, depth);
}

/** A copy of A's diagonal, which `eliminatePanel` judges its pivots by. */
export function diagonalOf(a: Matrix): Float64Array {
  return Float64Array.from({ length: a.rows }, (_, i) => a.data[i * a.rows + i]!);
}

/**
 * A = L Lᵀ for symmetric positive definite A [n, n]; A's lower triangle is overwritten by L.
 *
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if a pivot is not positive, or A holds NaN or infinity; A is then spoilt
 */
export function cholesky(a: Matrix): CholeskyFactor {
  return inOneGo(choleskySteps(a));
}

/** `cholesky` in steps, to the same bits. */
export function* choleskySteps(a: Matrix): Steps<CholeskyFactor> {
  assertSquare('cholesky', a);
  const n = a.rows;
  const diagonal = diagonalOf(a);
  for (let begin = 0; begin < n; begin += PANEL_WIDTH) {
    const end = Math.min(n, begin + PANEL_WIDTH);
    eliminatePanel(a, begin, end, diagonal);
    updateTrailing(a, begin, end);
    yield;
  }
  return { size: n, lower: a.data };
}

/** X = B A⁻¹ [k, n] for k right-hand sides as rows of B [k, n]. @throws {ShapeError} if the widths differ. */
export function solveRows(factor: CholeskyFactor, b: Matrix): Matrix {
  return inOneGo(solveRowsSteps(factor, b));
}

/** `solveRows` in steps, to the same bits. */
export function* solveRowsSteps(factor: CholeskyFactor, b: Matrix): Steps<Matrix> {
  return yield* solveUpperRowsSteps(factor, yield* solveLowerRowsSteps(factor, b));
}

/** Z = B L⁻ᵀ [k, n], the first half of a solve: Z Zᵀ = B A⁻¹ Bᵀ. @throws {ShapeError} if the widths differ. */
export function solveLowerRows(factor: CholeskyFactor, b: Matrix): Matrix {
  return inOneGo(solveLowerRowsSteps(factor, b));
}

/** `solveLowerRows` in steps, to the same bits. */
export function* solveLowerRowsSteps(factor: CholeskyFactor, b: Matrix): Steps<Matrix> {
  const { size: n, lower } = factor;
  const x = rightHandSides(factor, b);
  // One row of L serves all right-hand sides while it is in cache.
  for (let j = 0; j < n; j++) {
    if (j % STEP_COLUMNS === 0) yield;
    const pivot = lower[j * n + j]!;
    for (let r = 0; r < x.rows; r++) {
      const at = r * n + j;
      x.data[at] = (x.data[at]! - dot(lower, j * n, x.data, r * n, j)) / pivot;
    }
  }
  return x;
}

/** X = Z L⁻¹ [k, n], the second half of a solve. @throws {ShapeError} if the widths differ. */
export function solveUpperRows(factor: CholeskyFactor, z: Matrix): Matrix {
  return inOneGo(solveUpperRowsSteps(factor, z));
}

/** `solveUpperRows` in steps, to the same bits. */
export function* solveUpperRowsSteps(factor: CholeskyFactor, z: Matrix): Steps<Matrix> {
  const { size: n, lower } = factor;
  const x = rightHandSides(factor, z);
  for (let j = n - 1; j >= 0; j--) {
    if (j % STEP_COLUMNS === 0) yield;
    const pivot = lower[j * n + j]!;
    for (let r = 0; r < x.rows; r++) {
      const value = x.data[r * n + j]! / pivot;
      x.data[r * n + j] = value;
      addScaled(-value, lower, j * n, x.data, r * n, j);
    }
  }
  return x;
}

/** A copy to solve in place. */
function rightHandSides({ size: n }: CholeskyFactor, b: Matrix): Matrix {
  if (b.cols !== n) {
    throw new ShapeError(`Cholesky solve: expected rows of ${n} numbers, got [${b.rows}, ${b.cols}]`);
  }
  return matrix(b.rows, n, Float64Array.from(b.data));
}

/** (max Lⱼⱼ / min Lⱼⱼ)²: a lower bound of the condition number of A, free of charge. 1 for an empty matrix. */
export function conditionLowerBound({ size: n, lower }: CholeskyFactor): number {
  return conditionOfPivots(Float64Array.from({ length: n }, (_, i) => lower[i * n + i]!));
}

/** The same from all Lⱼⱼ. */
export function conditionOfPivots(pivots: Float64Array): number {
  let smallest = Number.POSITIVE_INFINITY;
  let largest = 0;
  for (const pivot of pivots) {
    smallest = Math.min(smallest, pivot);
    largest = Math.max(largest, pivot);
  }
  return pivots.length === 0 ? 1 : (largest / smallest) ** 2;
}
