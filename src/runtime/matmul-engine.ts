/**
 * Float64 matrix products, for factorisations too large for plain loops (linalg/cholesky-async.ts). They stay on the CPU,
 * whatever networks run on.
 */

import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { FREE_AXIS } from '../graph/value.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { type Matrix, matrix, transpose } from '../linalg/matrix.ts';
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

/** Which operands are read transposed. */
interface Transposed {
  readonly transA: boolean;
  readonly transB: boolean;
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

  /** A B, and the same of transposed operands. @throws {ShapeError} if the inner sizes differ */
  readonly multiply: MatmulEngine = Object.assign(
    (a: Matrix, b: Matrix) => this.#product(a, b, { transA: false, transB: false }),
    {
      leftTransposed: (a: Matrix, b: Matrix) => this.#product(a, b, { transA: true, transB: false }),
      rightTransposed: (a: Matrix, b: Matrix) => this.#product(a, b, { transA: false, transB: true }),
    },
  );

  async #product(a: Matrix, b: Matrix, { transA, transB }: Transposed): Promise<Matrix> {
    const [m, inner] = transA ? [a.cols, a.rows] : [a.rows, a.cols];
    const [other, k] = transB ? [b.cols, b.rows] : [b.rows, b.cols];
    if (inner !== other) {
      const of = (x: Matrix, turned: boolean): string => `[${x.rows}, ${x.cols}]${turned ? 'ᵀ' : ''}`;
      throw new ShapeError(`matrix product: inner axes differ: ${of(a, transA)} and ${of(b, transB)}`);
    }
    const perRow = inner * k;
    const short = Math.min(this.#mostProducts ?? SHORT_PRODUCTS, SHORT_PRODUCTS);
    const isShort = m * perRow <= short || LEAST_ROWS * perRow <= short;
    const most = isShort ? short : (this.#mostProducts ?? MOST_PRODUCTS);
    const parts = Math.max(1, Math.ceil((m * perRow) / most));
    const rows = Math.ceil(m / parts);
    if (rows === m) return matrix(m, k, await this.#run(a, b, { transA, transB }, isShort));
    // Rows of a transposed operand do not lie together.
    const left = transA ? transpose(a) : a;
    const product = matrix(m, k);
    for (let i = 0; i < m; i += rows) {
      const count = Math.min(rows, m - i);
      const part = matrix(count, inner, left.data.subarray(i * inner, (i + count) * inner));
      product.data.set(await this.#run(part, b, { transA: false, transB }, isShort), i * k);
    }
    return product;
  }

  async #run(a: Matrix, b: Matrix, transposed: Transposed, isShort: boolean): Promise<Float64Array> {
    const shapes = [a, b].map(({ rows, cols }) => (isShort ? [FREE_AXIS, FREE_AXIS] : [rows, cols]));
    const { transA, transB } = transposed;
    const product = await this.#graphs.get([shapes, transA, transB].join(), () => {
      const g = new GraphBuilder();
      const [left, right] = shapes as [number[], number[]];
      g.output('c', matmul(g, g.input('a', 'float64', left), g.input('b', 'float64', right), transposed));
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
