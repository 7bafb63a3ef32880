/** Products that are computed elsewhere where they are large, and by plain loops where they are not. */

import { type FeatureRows, type GramTerm, gramSize, multiplyByGram, toDenseGram } from './gram.ts';
import { type MatmulEngine, timesTransposed, transposedTimes } from './matmul-engine.ts';
import { type Matrix, matrix } from './matrix.ts';
import { multiply, multiplyTransposed } from './products.ts';

/** Up to this width plain loops multiply as fast as the engine starts. */
const ENGINE_FROM_WIDTH = 256;
/** Multiplications of which the same is true. */
const ENGINE_FROM_PRODUCTS = 1 << 17;

/**
 * Products with several Gram matrices of one width, one after the other. The dense form of each is made in the same
 * memory: fresh memory for each costs more than the products do.
 */
export class GramProducts {
  readonly #engine: MatmulEngine | null;
  #dense: Matrix | undefined;

  /** @param engine null: plain loops */
  constructor(engine: MatmulEngine | null) {
    this.#engine = engine;
  }

  /** A G [r, n] of rows A [r, n], as `multiplyByGram`. Calls may follow each other only. @throws as `multiplyByGram` */
  async multiply(a: Matrix, gram: GramTerm): Promise<Matrix> {
    const n = gramSize(gram);
    if (this.#engine === null || n < ENGINE_FROM_WIDTH || a.rows === 0) return multiplyByGram(a, gram);
    if ('features' in gram) {
      const { features } = gram;
      if (a.rows * n * features.rows < ENGINE_FROM_PRODUCTS) return multiplyByGram(a, gram);
      return this.#engine(await timesTransposed(this.#engine, a, features), features);
    }
    if (this.#dense?.rows !== n) this.#dense = matrix(n, n);
    return this.#engine(a, toDenseGram(gram, this.#dense));
  }
}

/** Numbers of dense Gram matrices at a time: 0.5 GB. */
const MOST_NUMBERS = 1 << 26;

/**
 * Packed Gram matrices made dense once, for all that is computed from them; for one input after the other, in the same
 * memory. Those that plain loops multiply by, those rounded to float32 and those beyond some size stay packed.
 */
export class DenseGrams {
  readonly #mostNumbers: number;
  readonly #memory: Matrix[] = [];
  #used = 0;

  constructor(mostNumbers: number = MOST_NUMBERS) {
    this.#mostNumbers = mostNumbers;
  }

  /** A term in its dense form, where it has one here; whatever was given earlier for another input is overwritten. */
  dense(gram: GramTerm): GramTerm {
    if (!('packed' in gram) || gram.packed instanceof Float32Array) return gram;
    const { size } = gram;
    if (size < ENGINE_FROM_WIDTH) return gram;
    if ((this.#used + 1) * size * size > this.#mostNumbers) return gram;
    if (this.#memory[0]?.rows !== size) this.#memory.length = 0;
    const at = this.#used++;
    this.#memory[at] ??= matrix(size, size);
    return toDenseGram(gram, this.#memory[at]);
  }

  /** The next term is another input's. */
  nextInput(): void {
    this.#used = 0;
  }
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
