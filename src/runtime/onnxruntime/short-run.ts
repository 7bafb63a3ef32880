/** Whether a graph is so small that its runs hold nobody up. */
import type { Graph, GraphNode } from '../../graph/graph.ts';
import { sizeOf } from '../../tensor/tensor.ts';

/** Operators of a graph that loads in a millisecond. */
const MOST_NODES = 8;

/**
 * Multiplications in float32 of a run of some 15 ms on two cores, and 30 on one; those in float64 count twice. Handing
 * such a run to another thread would cost 0.2 ms and a copy of what it is fed.
 */
const MOST_PRODUCTS = 2 ** 29;

/**
 * Whether loading and running it take well under the 50 ms that others may have to wait. Of a graph with free axes whoever
 * feeds it decides.
 */
export function isShort({ weights, nodes }: Graph): boolean {
  if (weights.length > 0 || nodes.length > MOST_NODES) return false;
  return nodes.reduce((sum, node) => sum + cost(node), 0) <= MOST_PRODUCTS;
}

function cost({ op, inputs, outputs, attributes }: GraphNode): number {
  const [{ shape, dtype }] = outputs as readonly [GraphNode['outputs'][number]];
  const width = dtype === 'float64' ? 2 : 1;
  if (op !== 'FusedMatMul') return width * sizeOf(shape);
  const inner = inputs[0]!.shape.at(attributes.transA ? -2 : -1)!;
  return width * sizeOf(shape) * inner;
}
