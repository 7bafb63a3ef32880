/**
 * When weights of half width become wide: the order in which a graph's nodes are written down. Of what a node reads, the runtime
 * computes last what stands first in the graph, so casts of weights stand before all others: each runs just before its weight is used.
 */
import type { Graph, GraphNode } from '../../graph/graph.ts';
import type { Value } from '../../graph/value.ts';

/**
 * The nodes, casts of weights before all others.
 * @param anew whether each node that reads a weight gets a cast of its own: what is widened for one is not held until the last of
 *   them has run, as the way back of a training step reads what the way there did
 */
export function withCastsFirst(
  { nodes, weights, outputs }: Graph,
  { anew }: { readonly anew: boolean },
): readonly GraphNode[] {
  const stored = new Set<Value | null>(weights.map(({ value }) => value));
  const widens = ({ op, inputs }: GraphNode): boolean => op === 'Cast' && stored.has(inputs[0]!);
  const casts = nodes.filter(widens);
  const others = nodes.filter((node) => !widens(node));
  if (!anew) return [...casts, ...others];
  const results = new Set(outputs.values());
  const castOf = new Map<Value | null, GraphNode>(casts.map((cast) => [cast.outputs[0]!, cast]));
  const own = new Map<string, GraphNode>();
  const readers = others.map((node) => {
    const inputs = node.inputs.map((value) => {
      const cast = castOf.get(value);
      if (cast === undefined) return value;
      const widened = { ...value!, name: `${cast.name}/for/${node.name}` };
      own.set(widened.name, { ...cast, name: widened.name, outputs: [widened] });
      return widened;
    });
    return { ...node, inputs };
  });
  return [...casts.filter((cast) => results.has(cast.outputs[0]!)), ...own.values(), ...readers];
}
