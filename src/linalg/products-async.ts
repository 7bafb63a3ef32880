/** Products that are computed elsewhere where they are large, and by plain loops where they are not. */
import type { MatmulEngine } from './cholesky-async.ts';
import { type FeatureRows, type GramTerm, gramSize, multiplyByGram, toDenseGram } from './gram.ts';
import { type Matrix, matrix, transpose } from './matrix.ts';
import { multiplyTransposed } from './products.ts';

/** Up to this width plain loops multiply as fast as the engine starts. */
const ENGINE_FROM_WIDTH = 256;
/** Multiplications of which the same is true. */
const ENGINE_FROM_PRODUCTS = 1 << 20;

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
      return this.#engine(await this.#engine(a, transpose(features)), features);
    }
    if (this.#dense?.rows !== n) this.#dense = matrix(n, n);
    return this.#engine(a, toDenseGram(gram, this.#dense));
  }
}

/** A Bᵀ [m, k] of A [m, n] and B [k, n], as `multiplyTransposed`. @param engine null: plain loops. @throws as `multiplyTransposed` */
export async function multiplyTransposedWith(
  engine: MatmulEngine | null,
  a: Matrix,
  b: Matrix,
): Promise<Matrix> {
  if (engine === null || a.rows * a.cols * b.rows < ENGINE_FROM_PRODUCTS) return multiplyTransposed(a, b);
  return engine(a, transpose(b));
}

/** G = XᵀX of rows; those of few numbers as they are. */
export async function gramOfRowsWith(engine: MatmulEngine, rows: FeatureRows): Promise<GramTerm> {
  const { features } = rows;
  if (features.rows * features.cols ** 2 < ENGINE_FROM_PRODUCTS) return rows;
  return engine(transpose(features), features);
}
