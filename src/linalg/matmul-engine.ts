/** Products of large matrices that something else computes. Which engine does is the caller's choice: this layer knows none. */
import { type Matrix, transpose } from './matrix.ts';

/** Products in float64; must not keep or change what it is given. */
export interface MatmulEngine {
  /** A B [m, k] of A [m, n] and B [n, k]. */
  (a: Matrix, b: Matrix): Promise<Matrix>;
  /** Aᵀ B [m, k] of A [n, m] and B [n, k], read as they lie. Absent: operands are turned first. */
  readonly leftTransposed?: (a: Matrix, b: Matrix) => Promise<Matrix>;
  /** A Bᵀ [m, k] of A [m, n] and B [k, n], read as they lie. Absent: operands are turned first. */
  readonly rightTransposed?: (a: Matrix, b: Matrix) => Promise<Matrix>;
}

/** Aᵀ B [m, k] of A [n, m] and B [n, k]. */
export function transposedTimes(engine: MatmulEngine, a: Matrix, b: Matrix): Promise<Matrix> {
  return engine.leftTransposed?.(a, b) ?? engine(transpose(a), b);
}

/** A Bᵀ [m, k] of A [m, n] and B [k, n]. */
export function timesTransposed(engine: MatmulEngine, a: Matrix, b: Matrix): Promise<Matrix> {
  return engine.rightTransposed?.(a, b) ?? engine(a, transpose(b));
}
