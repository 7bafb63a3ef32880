/** A graph without what no output needs. The runtime computes every node it is given. */
import type { Graph } from './graph.ts';
import type { Value } from './value.ts';

/** Nodes, constants and weights that some output needs; the inputs stay as they are. */
export function pruned(graph: Graph): Graph {
  const needed = new Set<Value>(graph.outputs.values());
  const nodes = graph.nodes
    .toReversed()
    .filter(({ inputs, outputs }) => {
      if (!outputs.some((output) => needed.has(output))) return false;
      for (const input of inputs) if (input !== null) needed.add(input);
      return true;
    })
    .reverse();
  return {
    ...graph,
    nodes,
    constants: graph.constants.filter(({ value }) => needed.has(value)),
    weights: graph.weights.filter(({ value }) => needed.has(value)),
  };
}
