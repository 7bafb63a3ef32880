/**
 * Float64 matrix products, for factorisations too large for plain loops (linalg/cholesky-async.ts). They stay on the CPU,
 * whatever networks run on.
 */

import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { FREE_AXIS } from '../graph/value.ts';
import type { MatmulEngine } from '../linalg/cholesky-async.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { defaultRuntime } from './default-runtime.ts';
import { LoadedGraphs } from './loaded-graphs.ts';
import type { GraphUse, RunSettings } from './runtime.ts';

/** Multiplications of a run of some 15 ms on two cores, which the calling thread computes itself. */
const SHORT_PRODUCTS = 2 ** 28;
/** Rows below which a part of a product costs more to begin than to compute. */
const LEAST_ROWS = 64;
/**
 * Multiplications of one run of another thread, a few tenths of a second, so that what it is fed and returns stays small.
 */
const MOST_PRODUCTS = 2 ** 32;

export interface MatmulEngineOptions extends RunSettings {
  /** Default: many small products beside other work. */
  readonly use?: GraphUse;
  /** Multiplications of one run; the results do not depend on them. */
  readonly mostProducts?: number;
}

/**
 * A MatmulEngine: one loaded graph for products of any shape, that run in the calling thread; and one per shape for those
 * that would hold it too long. What is larger than a run is multiplied some rows at a time, to the same bits. Dispose it
 * when done; calls may follow each other only.
 */
export class GraphMatmulEngine {
  readonly #graphs: LoadedGraphs;
  readonly #mostProducts: number | undefined;

  constructor({ use = 'many-small', mostProducts, ...settings }: MatmulEngineOptions = {}) {
    this.#graphs = new LoadedGraphs(defaultRuntime(), use, settings);
    this.#mostProducts = mostProducts;
  }

  /** A B. @throws {ShapeError} if the inner sizes differ */
  readonly multiply: MatmulEngine = async (a, b) => {
    if (a.cols !== b.rows) {
      throw new ShapeError(
        `matrix product: inner axes differ: [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}]`,
      );
    }
    const perRow = a.cols * b.cols;
    const short = Math.min(this.#mostProducts ?? SHORT_PRODUCTS, SHORT_PRODUCTS);
    const isShort = a.rows * perRow <= short || LEAST_ROWS * perRow <= short;
    const most = isShort ? short : (this.#mostProducts ?? MOST_PRODUCTS);
    const parts = Math.max(1, Math.ceil((a.rows * perRow) / most));
    const rows = Math.ceil(a.rows / parts);
    if (rows === a.rows) return matrix(a.rows, b.cols, await this.#run(a, b, isShort));
    const product = matrix(a.rows, b.cols);
    for (let i = 0; i < a.rows; i += rows) {
      const count = Math.min(rows, a.rows - i);
      const part = matrix(count, a.cols, a.data.subarray(i * a.cols, (i + count) * a.cols));
      product.data.set(await this.#run(part, b, isShort), i * b.cols);
    }
    return product;
  };

  async #run(a: Matrix, b: Matrix, isShort: boolean): Promise<Float64Array> {
    const shapes = [a, b].map(({ rows, cols }) => (isShort ? [FREE_AXIS, FREE_AXIS] : [rows, cols]));
    const product = await this.#graphs.get(shapes.join(), () => {
      const g = new GraphBuilder();
      const [left, right] = shapes as [number[], number[]];
      g.output('c', matmul(g, g.input('a', 'float64', left), g.input('b', 'float64', right)));
      return g.finish();
    });
    const { c } = await product.run({
      a: { dtype: 'float64', shape: [a.rows, a.cols], data: a.data },
      b: { dtype: 'float64', shape: [b.rows, b.cols], data: b.data },
    });
    return c!.data as Float64Array;
  }

  /** Free all of them. */
  dispose(): Promise<void> {
    return this.#graphs.dispose();
  }
}
