/**
 * Gram matrices of rows that a network returned. Where a pass has fewer rows than a layer has inputs, X [N, n] is smaller than
 * XᵀX [n, n], and of all layers both would be there at once: so the network returns rows, and here they become Gram
 * matrices, one after the other, to the bits that the network would have returned.
 */
import { GraphBuilder } from '../../graph/builder.ts';
import { gramOfRows } from '../../graph/gram-of-rows.ts';
import { gramStrips } from '../../linalg/gram.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { LoadedGraphs } from '../../runtime/loaded-graphs.ts';
import { float32 } from '../../tensor/tensor.ts';

/** Whether N rows of n inputs in float32 take less memory than the strips of their Gram matrix in float64. */
export function areSmallerAsRows(rows: number, width: number): boolean {
  const strips = gramStrips(width).reduce((sum, { start, end }) => sum + (end - start) * (width - start), 0);
  return rows * width < 2 * strips;
}

/** Dispose it when done. */
export class RowGrams {
  readonly #graphs: LoadedGraphs;

  /** @param execution its signal ends nothing here: a step's sums are all added, or none, so that what is kept is whole */
  constructor({ runtime, threads }: ExecutionContext) {
    this.#graphs = new LoadedGraphs(runtime, 'many-small', { threads });
  }

  /** Strips of XᵀX (`gramStrips`), one after the other. @param x X [N, n] */
  async strips(x: Float32Array, width: number): Promise<Float64Array> {
    const shape = [x.length / width, width];
    const graph = await this.#graphs.get(shape.join(), () => {
      const g = new GraphBuilder();
      g.output('gram', gramOfRows(g, g.input('x', 'float32', shape)));
      return g.finish();
    });
    const { gram } = await graph.run({ x: float32(shape, x) });
    return gram!.data as Float64Array;
  }

  dispose(): Promise<void> {
    return this.#graphs.dispose();
  }
}
