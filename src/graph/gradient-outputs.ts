/** Gradients as outputs of a graph, in the order that lets the runtime free activations soonest. */

import { sizeOf } from '../tensor/tensor.ts';
import type { GraphBuilder } from './builder.ts';
import { reshape } from './ops/movement.ts';
import type { Value } from './value.ts';

/** Output that holds the gradient of an input, flat. */
export const gradientOutput = (input: string): string => `d:${input}`;

/**
 * Return every gradient from the graph.
 *
 * The runtime orders nodes by a depth-first walk back from the last leaf of the graph to the first. The gradient that
 * is ready first must therefore be the last leaf: else all gradients but one wait for the end of the backward pass,
 * and with them the activations that they need. A reshape makes a leaf of its own; an Identity would be removed.
 */
export function writeGradients(g: GraphBuilder, found: ReadonlyMap<Value, Value>): void {
  const made = new Map<Value, number>();
  g.nodes.forEach(({ outputs }, i) => {
    for (const output of outputs) made.set(output, i);
  });
  const lastFirst = [...found].sort(([, a], [, b]) => (made.get(b) ?? -1) - (made.get(a) ?? -1));
  for (const [value, d] of lastFirst) g.output(gradientOutput(value.name), reshape(g, d, [sizeOf(d.shape)]));
}
