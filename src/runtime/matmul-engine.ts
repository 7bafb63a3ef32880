/** Float64 matrix products in the graph runtime, for factorisations too large for plain loops (linalg/cholesky-async.ts). */

import { GraphBuilder } from '../graph/builder.ts';
import { matmul } from '../graph/ops/matmul.ts';
import type { MatmulEngine } from '../linalg/cholesky-async.ts';
import { matrix } from '../linalg/matrix.ts';
import { GraphSession, type SessionOptions } from './session.ts';

/** Loaded products kept at a time; a factorisation of 5120 columns uses 39 shapes. */
const KEPT_SESSIONS = 64;

/** A MatmulEngine with one loaded graph per shape. Dispose it when done; calls may follow each other only. */
export class GraphMatmulEngine {
  readonly #options: SessionOptions;
  /** By shape, the one used last at the end. */
  readonly #sessions = new Map<string, GraphSession>();

  constructor(options: SessionOptions = {}) {
    this.#options = options;
  }

  /** A B. @throws {ShapeError} if the inner sizes differ */
  readonly multiply: MatmulEngine = async (a, b) => {
    const session = await this.#sessionFor(a.rows, a.cols, b.rows, b.cols);
    const { c } = await session.run({
      a: { dtype: 'float64', shape: [a.rows, a.cols], data: a.data },
      b: { dtype: 'float64', shape: [b.rows, b.cols], data: b.data },
    });
    return matrix(a.rows, b.cols, c!.data as Float64Array);
  };

  async #sessionFor(...shape: [number, number, number, number]): Promise<GraphSession> {
    const key = shape.join();
    const [aRows, aCols, bRows, bCols] = shape;
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const g = new GraphBuilder();
      const a = g.input('a', 'float64', [aRows, aCols]);
      g.output('c', matmul(g, a, g.input('b', 'float64', [bRows, bCols])));
      session = await GraphSession.create(g.finish(), this.#options);
    }
    this.#sessions.delete(key);
    this.#sessions.set(key, session);
    if (this.#sessions.size > KEPT_SESSIONS) {
      const [oldestKey, oldest] = this.#sessions.entries().next().value!;
      this.#sessions.delete(oldestKey);
      await oldest.dispose();
    }
    return session;
  }

  /** Free all sessions. */
  async dispose(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    for (const session of sessions) await session.dispose();
  }
}
