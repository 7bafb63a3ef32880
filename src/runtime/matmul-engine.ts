/**
 * Float64 matrix products, for factorisations too large for plain loops (linalg/cholesky-async.ts). They stay on the CPU,
 * whatever networks run on.
 */

import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { add, sub } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { FREE_AXIS, type Value } from '../graph/value.ts';
import type { MatmulEngine, Substitution } from '../linalg/matmul-engine.ts';
import { type Matrix, matrix, transpose } from '../linalg/matrix.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { defaultRuntime } from './default-runtime.ts';
import { LoadedGraphs } from './loaded-graphs.ts';
import type { GraphUse, RunSettings } from './runtime.ts';

/** Multiplications of a run of some 15 ms on two cores, which the calling thread computes itself. */
const SHORT_PRODUCTS = 2 ** 28;
/** Multiplications below which two threads take longer than one: they wait for each other, and for what is computed in between. */
const ONE_THREAD_PRODUCTS = 2 ** 25;
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

const tensor = ({ rows, cols, data }: Matrix): Tensor => ({ dtype: 'float64', shape: [rows, cols], data });

/**
 * A MatmulEngine: one loaded graph for products of any shape, one for each kind of step of a triangular solve, that run in the calling thread; and one per shape for those
 * that would hold it too long. What is larger than a run is multiplied some rows at a time, to the same bits. Dispose it
 * when done; calls may follow each other only.
 */
export class GraphMatmulEngine {
  readonly #graphs: LoadedGraphs;
  /** What one thread computes. */
  readonly #oneThread: LoadedGraphs;
  readonly #mostProducts: number | undefined;

  constructor({ use = 'many-small', mostProducts, ...settings }: MatmulEngineOptions = {}) {
    this.#graphs = new LoadedGraphs(defaultRuntime(), use, settings);
    this.#oneThread = new LoadedGraphs(defaultRuntime(), use, { ...settings, threads: 1 });
    this.#mostProducts = mostProducts;
  }

  /** A B, and the same of transposed operands. @throws {ShapeError} if the inner sizes differ */
  readonly multiply: MatmulEngine = Object.assign(
    (a: Matrix, b: Matrix, into?: Matrix) => this.#product(a, b, { transA: false, transB: false }, into),
    {
      leftTransposed: (a: Matrix, b: Matrix, into?: Matrix) =>
        this.#product(a, b, { transA: true, transB: false }, into),
      rightTransposed: (a: Matrix, b: Matrix, into?: Matrix) =>
        this.#product(a, b, { transA: false, transB: true }, into),
      substitute: (step: Substitution) => this.#substitute(step),
    },
  );

  async #product(a: Matrix, b: Matrix, { transA, transB }: Transposed, into?: Matrix): Promise<Matrix> {
    const [m, inner] = transA ? [a.cols, a.rows] : [a.rows, a.cols];
    const [other, k] = transB ? [b.cols, b.rows] : [b.rows, b.cols];
    if (inner !== other) {
      const of = (x: Matrix, turned: boolean): string => `[${x.rows}, ${x.cols}]${turned ? 'ᵀ' : ''}`;
      throw new ShapeError(`matrix product: inner axes differ: ${of(a, transA)} and ${of(b, transB)}`);
    }
    const product = into ?? matrix(m, k);
    if (product.rows !== m || product.cols !== k) {
      throw new ShapeError(
        `matrix product: expected [${m}, ${k}] to write to, got [${product.rows}, ${product.cols}]`,
      );
    }
    const perRow = inner * k;
    const short = Math.min(this.#mostProducts ?? SHORT_PRODUCTS, SHORT_PRODUCTS);
    const isShort = m * perRow <= short || LEAST_ROWS * perRow <= short;
    const most = isShort ? short : (this.#mostProducts ?? MOST_PRODUCTS);
    const parts = Math.max(1, Math.ceil((m * perRow) / most));
    const rows = Math.ceil(m / parts);
    if (rows === m) {
      await this.#run(a, b, { transA, transB }, isShort, product);
      return product;
    }
    // Rows of a transposed operand do not lie together.
    const left = transA ? transpose(a) : a;
    for (let i = 0; i < m; i += rows) {
      const count = Math.min(rows, m - i);
      const part = matrix(count, inner, left.data.subarray(i * inner, (i + count) * inner));
      const target = matrix(count, k, product.data.subarray(i * k, (i + count) * k));
      await this.#run(part, b, { transA: false, transB }, isShort, target);
    }
    return product;
  }

  async #run(a: Matrix, b: Matrix, transposed: Transposed, isShort: boolean, into: Matrix): Promise<void> {
    const shapes = [a, b].map(({ rows, cols }) => (isShort ? [FREE_AXIS, FREE_AXIS] : [rows, cols]));
    const { transA, transB } = transposed;
    const products = a.rows * a.cols * (transB ? b.rows : b.cols);
    const graphs = isShort ? this.#threadsFor(products) : this.#graphs;
    const product = await graphs.get([shapes, transA, transB].join(), () => {
      const g = new GraphBuilder();
      const [left, right] = shapes as [number[], number[]];
      g.output('c', matmul(g, g.input('a', 'float64', left), g.input('b', 'float64', right), transposed));
      return g.finish();
    });
    await product.run({ a: tensor(a), b: tensor(b) }, ['c'], { c: tensor(into) });
  }

  #threadsFor(products: number): LoadedGraphs {
    return products < ONE_THREAD_PRODUCTS ? this.#oneThread : this.#graphs;
  }

  async #substitute({ transposed, c, known, triangle, inverse, into }: Substitution): Promise<void> {
    const isFirst = known === null;
    const products = isFirst ? 0 : known.b.rows * into.rows * into.cols;
    const graph = await this.#threadsFor(products).get(['substitute', transposed, isFirst].join(), () => {
      const g = new GraphBuilder();
      const input = (name: string): Value => g.input(name, 'float64', [FREE_AXIS, FREE_AXIS]);
      const times = (left: Value, right: Value): Value => matmul(g, left, right, { transA: transposed });
      const [rows, d, inverted] = [input('c'), input('triangle'), input('inverse')];
      const left = isFirst ? rows : sub(g, rows, times(input('a'), input('b')));
      const quotient = times(inverted, left);
      const rest = times(inverted, sub(g, left, times(d, quotient)));
      g.output('x', add(g, quotient, rest));
      return g.finish();
    });
    const feeds = { c: tensor(c), triangle: tensor(triangle), inverse: tensor(inverse) };
    const all = isFirst ? feeds : { ...feeds, a: tensor(known.a), b: tensor(known.b) };
    await graph.run(all, ['x'], { x: tensor(into) });
  }

  /** Free all of them. */
  async dispose(): Promise<void> {
    await this.#graphs.dispose();
    await this.#oneThread.dispose();
  }
}
