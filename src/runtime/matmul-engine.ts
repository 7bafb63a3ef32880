/**
 * Float64 matrix products, for factorisations too large for plain loops (linalg/cholesky-async.ts). They stay on the CPU,
 * whatever networks run on.
 */

import { GraphBuilder } from '../graph/builder.ts';
import { matmul } from '../graph/ops/matmul.ts';
import type { MatmulEngine } from '../linalg/cholesky-async.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { defaultRuntime } from './default-runtime.ts';
import { LoadedGraphs } from './loaded-graphs.ts';
import type { GraphUse, LoadedGraph, RunSettings } from './runtime.ts';

/**
 * Multiplications of one run, a few tenths of a second, so that what it is fed and returns stays small. What is larger is
 * multiplied some rows at a time, to the same bits.
 */
const MOST_PRODUCTS = 2 ** 32;

export interface MatmulEngineOptions extends RunSettings {
  /** Default: many small products beside other work. */
  readonly use?: GraphUse;
  /** Multiplications of one run; the results do not depend on them. */
  readonly mostProducts?: number;
}

/** A MatmulEngine with one loaded graph per shape. Dispose it when done; calls may follow each other only. */
export class GraphMatmulEngine {
  /** A factorisation of 5120 columns uses 39 shapes. */
  readonly #graphs: LoadedGraphs;
  readonly #mostProducts: number;

  constructor({ use = 'many-small', mostProducts = MOST_PRODUCTS, ...settings }: MatmulEngineOptions = {}) {
    this.#graphs = new LoadedGraphs(defaultRuntime(), use, settings);
    this.#mostProducts = mostProducts;
  }

  /** A B. @throws {ShapeError} if the inner sizes differ */
  readonly multiply: MatmulEngine = async (a, b) => {
    const parts = Math.max(1, Math.ceil((a.rows * a.cols * b.cols) / this.#mostProducts));
    const rows = Math.ceil(a.rows / parts);
    if (rows === a.rows) return matrix(a.rows, b.cols, await this.#run(a, b));
    const product = matrix(a.rows, b.cols);
    for (let i = 0; i < a.rows; i += rows) {
      const count = Math.min(rows, a.rows - i);
      const part = matrix(count, a.cols, a.data.subarray(i * a.cols, (i + count) * a.cols));
      product.data.set(await this.#run(part, b), i * b.cols);
    }
    return product;
  };

  async #run(a: Matrix, b: Matrix): Promise<Float64Array> {
    const product = await this.#productOf(a.rows, a.cols, b.rows, b.cols);
    const { c } = await product.run({
      a: { dtype: 'float64', shape: [a.rows, a.cols], data: a.data },
      b: { dtype: 'float64', shape: [b.rows, b.cols], data: b.data },
    });
    return c!.data as Float64Array;
  }

  #productOf(...shape: [number, number, number, number]): Promise<LoadedGraph> {
    const [aRows, aCols, bRows, bCols] = shape;
    return this.#graphs.get(shape.join(), () => {
      const g = new GraphBuilder();
      const a = g.input('a', 'float64', [aRows, aCols]);
      g.output('c', matmul(g, a, g.input('b', 'float64', [bRows, bCols])));
      return g.finish();
    });
  }

  /** Free all of them. */
  dispose(): Promise<void> {
    return this.#graphs.dispose();
  }
}
