/** Products that are computed elsewhere where they are large, and by plain loops where they are not. */

import {
  type FeatureRows,
  type GramTerm,
  gramSize,
  multiplyByGram,
  type PackedSymmetric,
  packedStart,
  toDenseGram,
} from './gram.ts';
import { type MatmulEngine, timesTransposed, transposedTimes } from './matmul-engine.ts';
import { type Matrix, matrix } from './matrix.ts';
import { addScaled, copyRun, multiply, multiplyTransposed } from './products.ts';
import { numbersOf, type ReusedMemory } from './reused-memory.ts';

/** Up to this width plain loops multiply as fast as the engine starts. */
const ENGINE_FROM_WIDTH = 256;
/** Multiplications of which the same is true. */
const ENGINE_FROM_PRODUCTS = 1 << 17;

/** Rows of a packed Gram matrix at a time: some of them stay in the caches between two products. */
const STRIP_ROWS = 256;

/** Rows from which it costs less to make a Gram matrix dense than to divide them into strips. */
const MOST_STRIP_ROWS = 128;

/**
 * Products with several Gram matrices, one after the other. Packed ones are multiplied strip by strip: with the rows S of the upper
 * triangle, their diagonal halved, A G is the sum of all A_S S, and of A Sᵀ in the columns of S.
 */
export class GramProducts {
  readonly #engine: MatmulEngine | null;
  readonly #memory: ReusedMemory | undefined;
  readonly #scratch: Float64Array[] = [];

  /** @param engine null: plain loops */
  constructor(engine: MatmulEngine | null, memory?: ReusedMemory) {
    this.#engine = engine;
    this.#memory = memory;
  }

  /**
   * A G [r, n] of rows A [r, n], as `multiplyByGram`. Calls may follow each other only.
   * @param into that the product may be written to and returned in
   * @throws as `multiplyByGram`
   */
  async multiply(a: Matrix, gram: GramTerm, into?: Matrix): Promise<Matrix> {
    const n = gramSize(gram);
    if (this.#engine === null || n < ENGINE_FROM_WIDTH || a.rows === 0 || a.cols !== n) {
      return multiplyByGram(a, gram);
    }
    if ('features' in gram) {
      const { features } = gram;
      if (a.rows * n * features.rows < ENGINE_FROM_PRODUCTS) return multiplyByGram(a, gram);
      return this.#engine(await timesTransposed(this.#engine, a, features), features, into);
    }
    if ('rows' in gram) return this.#engine(a, gram, into);
    if (a.rows <= MOST_STRIP_ROWS) return this.#multiplyPacked(this.#engine, a, gram);
    const dense = toDenseGram(gram, matrix(n, n, this.#numbers(3, n * n).subarray(0, n * n)));
    return this.#engine(a, dense, into);
  }

  /** So many numbers of one of the memories that all products use. */
  #numbers(which: number, count: number): Float64Array {
    if ((this.#scratch[which]?.length ?? -1) < count) this.#scratch[which] = numbersOf(this.#memory, count);
    return this.#scratch[which]!;
  }

  async #multiplyPacked(
    engine: MatmulEngine,
    a: Matrix,
    { size: n, packed }: PackedSymmetric,
  ): Promise<Matrix> {
    const product = matrix(a.rows, n);
    const [operand, into] = [this.#numbers(0, a.rows * n), this.#numbers(1, a.rows * n)];
    const strips = this.#numbers(2, STRIP_ROWS * n);
    for (let top = 0; top < n; top += STRIP_ROWS) {
      const rows = Math.min(STRIP_ROWS, n - top);
      const strip = over(strips, rows, n - top);
      for (let i = 0; i < rows; i++) {
        const from = packedStart(n, top + i);
        const to = i * strip.cols;
        strip.data.fill(0, to, to + i);
        strip.data.set(packed.subarray(from, from + n - top - i), to + i);
        strip.data[to + i]! /= 2;
      }
      const right = columnsOf(a, top, n, operand);
      addColumns(product, top, await timesTransposed(engine, right, strip, over(into, a.rows, rows)));
      const left = columnsOf(a, top, top + rows, operand);
      addColumns(product, top, await engine(left, strip, over(into, a.rows, n - top)));
    }
    return product;
  }
}

/** A matrix at the beginning of some numbers. */
function over(numbers: Float64Array, rows: number, cols: number): Matrix {
  return matrix(rows, cols, numbers.subarray(0, rows * cols));
}

/** Columns [left, right), copied to the beginning of some numbers. */
function columnsOf({ rows, cols, data }: Matrix, left: number, right: number, memory: Float64Array): Matrix {
  const result = over(memory, rows, right - left);
  for (let i = 0; i < rows; i++) copyRun(data, i * cols + left, result.data, i * result.cols, result.cols);
  return result;
}

/** target[:, left:] += A */
function addColumns(target: Matrix, left: number, { rows, cols, data }: Matrix): void {
  for (let i = 0; i < rows; i++) addScaled(1, data, i * cols, target.data, i * target.cols + left, cols);
}

/** A Bᵀ [m, k] of A [m, n] and B [k, n], as `multiplyTransposed`. @param engine null: plain loops. @throws as `multiplyTransposed` */
export async function multiplyTransposedWith(
  engine: MatmulEngine | null,
  a: Matrix,
  b: Matrix,
): Promise<Matrix> {
  if (engine === null || a.rows * a.cols * b.rows < ENGINE_FROM_PRODUCTS) return multiplyTransposed(a, b);
  return timesTransposed(engine, a, b);
}

/** A B [m, k] of A [m, n] and B [n, k], as `multiply`. @param engine null: plain loops. @throws as `multiply` */
export async function multiplyWith(engine: MatmulEngine | null, a: Matrix, b: Matrix): Promise<Matrix> {
  if (engine === null || a.rows * a.cols * b.cols < ENGINE_FROM_PRODUCTS) return multiply(a, b);
  return engine(a, b);
}

/** Multiplications from which the Gram matrix of rows is the engine's. */
const ENGINE_GRAM_FROM_PRODUCTS = 1 << 20;

/** G = XᵀX of rows; those of few numbers as they are. */
export async function gramOfRowsWith(engine: MatmulEngine, rows: FeatureRows): Promise<GramTerm> {
  const { features } = rows;
  if (features.rows * features.cols ** 2 < ENGINE_GRAM_FROM_PRODUCTS) return rows;
  return transposedTimes(engine, features, features);
}
