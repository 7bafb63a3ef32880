/**
 * W + Σ factor · up · down in the graph runtime, some rows at a time, one loaded graph per shape. Half-precision weights go
 * in and come out as they are; the sum is made in float32.
 */
import { ShapeError } from '../errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { add, cast } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { LoadedGraphs } from '../runtime/loaded-graphs.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { float32 } from '../tensor/tensor.ts';

/** Numbers of a weight: float32, or halves as their bits. */
export type WeightData = Float32Array | Uint16Array;

export interface ScaledFactors {
  readonly delta: LowRank;
  readonly factor: number;
}

/** Σ factor · up · down as one pair in float32: up [m, rank], down [rank, n]. */
export interface JoinedFactors {
  readonly m: number;
  readonly n: number;
  readonly rank: number;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

/** Factors side by side, scaled. @throws {ShapeError} opening with `where` if a change is not [m, n] */
export function joinFactors(
  where: string,
  m: number,
  n: number,
  terms: readonly ScaledFactors[],
): JoinedFactors {
  const rank = terms.reduce((total, { delta }) => total + delta.up.cols, 0);
  const up = new Float32Array(m * rank);
  const down = new Float32Array(rank * n);
  let at = 0;
  for (const { delta, factor } of terms) {
    const own = delta.up.cols;
    if (delta.up.rows !== m || delta.down.cols !== n) {
      throw new ShapeError(
        `${where}: expected a change of [${m}, ${n}], got [${delta.up.rows}, ${delta.down.cols}]; trained on another base?`,
      );
    }
    for (let i = 0; i < m; i++) {
      for (let k = 0; k < own; k++) up[i * rank + at + k] = factor * delta.up.data[i * own + k]!;
    }
    down.set(delta.down.data, at * n);
    at += own;
  }
  return { m, n, rank, up, down };
}

/** (up · down)ᵀ = downᵀ · upᵀ */
export function transposedFactors({ m, n, rank, up, down }: JoinedFactors): JoinedFactors {
  return { m: n, n: m, rank, up: transposed(down, rank, n), down: transposed(up, m, rank) };
}

/** [rows, columns] → [columns, rows] */
function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) turned[j * rows + i] = values[i * columns + j]!;
  }
  return turned;
}

/** The change of some rows of a weight. */
export interface PlacedFactors {
  readonly firstRow: number;
  readonly factors: JoinedFactors;
}

/** Changes of different rows as one of all `m` rows; the rows of none stay. */
export function stackFactors(m: number, parts: readonly PlacedFactors[]): JoinedFactors {
  const [only] = parts;
  if (parts.length === 1 && only!.factors.m === m) return only!.factors;
  const n = only!.factors.n;
  const rank = parts.reduce((sum, { factors }) => sum + factors.rank, 0);
  const up = new Float32Array(m * rank);
  const down = new Float32Array(rank * n);
  let at = 0;
  for (const { firstRow, factors } of parts) {
    for (let i = 0; i < factors.m; i++) {
      up.set(factors.up.subarray(i * factors.rank, (i + 1) * factors.rank), (firstRow + i) * rank + at);
    }
    down.set(factors.down, at * n);
    at += factors.rank;
  }
  return { m, n, rank, up, down };
}

/** Adds changes to weights in float32. Dispose it when done. */
export class FactorAddition {
  /** Baking into a Stable Diffusion UNet needs about 30 shapes. */
  readonly #graphs: LoadedGraphs;

  constructor(execution: ExecutionContext = executionContext()) {
    this.#graphs = new LoadedGraphs(execution.runtime, 'many-small', execution);
  }

  /**
   * target = W + up · down for rows [begin, begin + count) of a weight.
   * @param weight those rows of W, [count, n]. Not changed
   * @param target [count, n], of the type to round to
   */
  async addRows(
    { n, rank, up, down }: JoinedFactors,
    begin: number,
    weight: WeightData,
    target: WeightData,
  ): Promise<void> {
    const rows = weight.length / n;
    const [from, to] = [dtypeOf(weight), dtypeOf(target)];
    const sum = await this.#sumOf(rows, n, rank, from, to);
    await sum.run(
      {
        w: { dtype: from, shape: [rows, n], data: weight },
        up: float32([rows, rank], up.subarray(begin * rank, (begin + rows) * rank)),
        down: float32([rank, n], down),
      },
      ['sum'],
      { sum: target },
    );
  }

  #sumOf(m: number, n: number, rank: number, from: HalfOrSingle, to: HalfOrSingle): Promise<LoadedGraph> {
    return this.#graphs.get([m, n, rank, from, to].join(), () => {
      const g = new GraphBuilder();
      const change = matmul(g, g.input('up', 'float32', [m, rank]), g.input('down', 'float32', [rank, n]));
      const w = g.input('w', from, [m, n]);
      const sum = add(g, from === 'float32' ? w : cast(g, w, 'float32'), change);
      g.output('sum', to === 'float32' ? sum : cast(g, sum, to));
      return g.finish();
    });
  }

  /** Free all of them. */
  dispose(): Promise<void> {
    return this.#graphs.dispose();
  }
}

type HalfOrSingle = 'float16' | 'float32';

function dtypeOf(data: WeightData): HalfOrSingle {
  return data instanceof Float32Array ? 'float32' : 'float16';
}
