/** Dense float64 matrices, row-major. The plain type shared by every factorisation and solver. */
import { ShapeError } from '../errors.ts';

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
