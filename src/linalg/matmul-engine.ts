/** Products of large matrices that something else computes. Which engine does is the caller's choice: this layer knows none. */
import { type Matrix, transpose } from './matrix.ts';

/**
 * Products in float64; must not keep or change what it is given. Where `into` is given, a matrix of the result's shape and none of
 * the operands, the result may be written there: the one that is returned counts.
 */
export interface MatmulEngine {
  /** A B [m, k] of A [m, n] and B [n, k]. */
  (a: Matrix, b: Matrix, into?: Matrix): Promise<Matrix>;
  /** Aᵀ B [m, k] of A [n, m] and B [n, k], read as they lie. Absent: operands are turned first. */
  readonly leftTransposed?: (a: Matrix, b: Matrix, into?: Matrix) => Promise<Matrix>;
  /** A Bᵀ [m, k] of A [m, n] and B [k, n], read as they lie. Absent: operands are turned first. */
  readonly rightTransposed?: (a: Matrix, b: Matrix, into?: Matrix) => Promise<Matrix>;
  /** `substitute` in one go. Absent: product after product. */
  readonly substitute?: (step: Substitution) => Promise<void>;
}

/**
 * One step of a triangular solve: the rows X [w, k] of Dᵀ X = C − Aᵀ B, or of D X = C − A B, for D [w, w] upper triangular. By the
 * inverse of D, and once more for what that leaves: a product with an inverse alone loses as many digits as D's condition has.
 */
export interface Substitution {
  /** A and D are read transposed. */
  readonly transposed: boolean;
  /** C [w, k]; may be overwritten. */
  readonly c: Matrix;
  /** A [n, w], or [w, n] if it is not read transposed, and B [n, k]; null where nothing is known yet. */
  readonly known: { readonly a: Matrix; readonly b: Matrix } | null;
  /** D, zeros below its diagonal. */
  readonly triangle: Matrix;
  /** D⁻¹ */
  readonly inverse: Matrix;
  /** X is written here; none of the operands. */
  readonly into: Matrix;
}

/** Aᵀ B [m, k] of A [n, m] and B [n, k]. */
export function transposedTimes(engine: MatmulEngine, a: Matrix, b: Matrix, into?: Matrix): Promise<Matrix> {
  return engine.leftTransposed?.(a, b, into) ?? engine(transpose(a), b, into);
}

/** A Bᵀ [m, k] of A [m, n] and B [k, n]. */
export function timesTransposed(engine: MatmulEngine, a: Matrix, b: Matrix, into?: Matrix): Promise<Matrix> {
  return engine.rightTransposed?.(a, b, into) ?? engine(a, transpose(b), into);
}

/** See `Substitution`. */
export async function substitute(engine: MatmulEngine, step: Substitution): Promise<void> {
  if (engine.substitute !== undefined) return engine.substitute(step);
  const { transposed, c, known, triangle, inverse, into } = step;
  const times = (a: Matrix, b: Matrix): Promise<Matrix> =>
    transposed ? transposedTimes(engine, a, b) : engine(a, b);
  const take = (target: Matrix, { data }: Matrix, sign: 1 | -1): void => {
    for (let i = 0; i < data.length; i++) target.data[i]! += sign * data[i]!;
  };
  if (known !== null) take(c, await times(known.a, known.b), -1);
  into.data.set((await times(inverse, c)).data);
  take(c, await times(triangle, into), -1);
  take(into, await times(inverse, c), 1);
}
