/**
 * W + Σ factor · up · down in the graph runtime, one loaded graph per shape. Half-precision weights go in and come out as
 * they are; the sum is made in float32.
 */
import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { add, cast } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { GraphSession, type SessionOptions } from '../graph/session.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';

/** Shapes kept loaded at a time; a Stable Diffusion UNet has about 30. */
const KEPT_SESSIONS = 64;

/** A weight as it is stored, or decoded to float32. */
export interface Weight extends Tensor<Float32Array | Uint16Array> {
  readonly dtype: 'float32' | 'float16';
}

export interface ScaledFactors {
  readonly delta: LowRank;
  readonly factor: number;
}

/** Adds changes to weights in float32. Dispose it when done. */
export class FactorAddition {
  readonly #options: SessionOptions;
  readonly #sessions = new Map<string, GraphSession>();

  constructor(options: SessionOptions = {}) {
    this.#options = options;
  }

  /**
   * @param weight W [m, …]; its axes after the first are joined. Not changed
   * @param dtype  of the result
   * @param terms  changes [m, n]
   * @returns the numbers in row-major order, a new array
   * @throws {ShapeError} if a change does not fit the weight
   */
  async add(
    weight: Weight,
    dtype: Weight['dtype'],
    terms: readonly ScaledFactors[],
  ): Promise<Weight['data']> {
    const m = weight.shape[0]!;
    const n = weight.data.length / m;
    const rank = terms.reduce((total, { delta }) => total + delta.up.cols, 0);
    const up = new Float32Array(m * rank);
    const down = new Float32Array(rank * n);
    let at = 0;
    for (const { delta, factor } of terms) {
      const own = delta.up.cols;
      if (delta.up.rows !== m || delta.down.cols !== n) {
        throw new ShapeError(
          `expected a change of [${m}, ${n}], got [${delta.up.rows}, ${delta.down.cols}]; trained on another base?`,
        );
      }
      for (let i = 0; i < m; i++) {
        for (let k = 0; k < own; k++) up[i * rank + at + k] = factor * delta.up.data[i * own + k]!;
      }
      down.set(delta.down.data, at * n);
      at += own;
    }
    const session = await this.#sessionFor(m, n, rank, weight.dtype, dtype);
    const { sum } = await session.run({
      w: { ...weight, shape: [m, n] },
      up: float32([m, rank], up),
      down: float32([rank, n], down),
    });
    return sum!.data as Weight['data'];
  }

  async #sessionFor(
    m: number,
    n: number,
    rank: number,
    from: Weight['dtype'],
    to: Weight['dtype'],
  ): Promise<GraphSession> {
    const key = [m, n, rank, from, to].join();
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const g = new GraphBuilder();
      const change = matmul(g, g.input('up', 'float32', [m, rank]), g.input('down', 'float32', [rank, n]));
      const w = g.input('w', from, [m, n]);
      const sum = add(g, from === 'float32' ? w : cast(g, w, 'float32'), change);
      g.output('sum', to === 'float32' ? sum : cast(g, sum, to));
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
