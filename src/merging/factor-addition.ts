/** W + Σ factor · up · down in the graph runtime, one loaded graph per shape. */
import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { add } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { GraphSession, type SessionOptions } from '../graph/session.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { float32 } from '../tensor/tensor.ts';

/** Shapes kept loaded at a time; a Stable Diffusion UNet has about 30. */
const KEPT_SESSIONS = 64;

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
   * @param shape  of the weight, [m, …]; its axes after the first are joined
   * @param weight row-major, not changed
   * @param terms  changes [m, n]
   * @returns row-major, a new array
   * @throws {ShapeError} if a change does not fit the weight
   */
  async add(
    shape: readonly number[],
    weight: Float32Array,
    terms: readonly ScaledFactors[],
  ): Promise<Float32Array> {
    const m = shape[0]!;
    const n = weight.length / m;
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
    const session = await this.#sessionFor(m, n, rank);
    const { sum } = await session.run({
      w: float32([m, n], weight),
      up: float32([m, rank], up),
      down: float32([rank, n], down),
    });
    return sum!.data as Float32Array;
  }

  async #sessionFor(m: number, n: number, rank: number): Promise<GraphSession> {
    const key = [m, n, rank].join();
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const g = new GraphBuilder();
      const change = matmul(g, g.input('up', 'float32', [m, rank]), g.input('down', 'float32', [rank, n]));
      g.output('sum', add(g, g.input('w', 'float32', [m, n]), change));
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
