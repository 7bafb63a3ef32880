/** Dense float64 matrices, row-major. The plain type shared by every factorisation and solver. */
import { NumericalError, ShapeError } from '../errors.ts';

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  /** Element (i, j) at `i * cols + j`. */
  readonly data: Float64Array;
}

/** A matrix of zeros, or over `data` when given (not copied). @throws {ShapeError} if the length does not fit. */
export function matrix(
  rows: number,
  cols: number,
  data: Float64Array = new Float64Array(rows * cols),
): Matrix {
  if (data.length !== rows * cols) {
    throw new ShapeError(`matrix: expected ${rows} × ${cols} = ${rows * cols} numbers, got ${data.length}`);
  }
  return { rows, cols, data };
}

/** I [n, n]. */
export function identity(n: number): Matrix {
  const result = matrix(n, n);
  for (let i = 0; i < n; i++) result.data[i * n + i] = 1;
  return result;
}

/** Aᵀ [n, m] of A [m, n], copied. */
export function transpose(a: Matrix): Matrix {
  const { rows, cols } = a;
  const result = matrix(cols, rows);
  const tile = 32;
  for (let i0 = 0; i0 < rows; i0 += tile) {
    const i1 = Math.min(rows, i0 + tile);
    for (let j0 = 0; j0 < cols; j0 += tile) {
      const j1 = Math.min(cols, j0 + tile);
      for (let i = i0; i < i1; i++) {
        for (let j = j0; j < j1; j++) result.data[j * rows + i] = a.data[i * cols + j]!;
      }
    }
  }
  return result;
}

/** Matrices [k_i, cols] one above the other, copied: [Σ k_i, cols]. @throws {ShapeError} if a width differs. */
export function stackRows(cols: number, parts: readonly Matrix[]): Matrix {
  const result = matrix(
    parts.reduce((total, part) => total + part.rows, 0),
    cols,
  );
  let at = 0;
  for (const part of parts) {
    if (part.cols !== cols) {
      throw new ShapeError(
        `stacked rows: expected rows of ${cols} numbers, got [${part.rows}, ${part.cols}]`,
      );
    }
    result.data.set(part.data, at);
    at += part.data.length;
  }
  return result;
}

/** The reverse of `stackRows`: views of `counts` rows each, in order. */
export function splitRows({ cols, data }: Matrix, counts: readonly number[]): Matrix[] {
  let at = 0;
  return counts.map((rows) => {
    const from = at;
    at += rows * cols;
    return matrix(rows, cols, data.subarray(from, at));
  });
}

/** A ← (A + Aᵀ) / 2, in place: products round differently above and below the diagonal. @returns A [n, n] */
export function symmetrise(a: Matrix): Matrix {
  const n = a.rows;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const mean = (a.data[i * n + j]! + a.data[j * n + i]!) / 2;
      a.data[i * n + j] = mean;
      a.data[j * n + i] = mean;
    }
  }
  return a;
}

/** Throws unless every number is finite. `where` opens the message. @throws {NumericalError} */
export function assertFinite(where: string, data: ArrayLike<number>): void {
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i]!)) {
      throw new NumericalError(`${where}: expected finite numbers, got ${data[i]} at index ${i}`, {
        value: data[i]!,
      });
    }
  }
}

/** @throws {ShapeError} unless A is square. */
export function assertSquare(where: string, a: Matrix): void {
  if (a.rows !== a.cols) {
    throw new ShapeError(`${where}: expected a square matrix, got [${a.rows}, ${a.cols}]`);
  }
}
