/** One graph as two that run after each other: what the second needs of the first travels as values between them. */
import type { Graph, GraphNode } from './graph.ts';
import { pruned } from './prune.ts';
import type { Value } from './value.ts';

export interface SplitGraph {
  /** Some outputs of the whole, and every value of `kept` under `keptName`. */
  readonly first: Graph;
  /** The other outputs. Takes the values of `kept` as inputs of their own names. */
  readonly second: Graph;
  readonly kept: readonly Value[];
}

/** Output of the first graph that holds a value which the second one takes. */
export const keptName = ({ name }: Value): string => `kept:${name}`;

/**
 * Split before everything that the outputs `early` do not need. What depends on no input (weights widened) is in both
 * rather than kept. Each half has those inputs only that it needs.
 * @param early names of outputs of the first graph
 */
export function splitGraph(graph: Graph, early: ReadonlySet<string>): SplitGraph {
  const outputs = [...graph.outputs];
  const own = outputs.filter(([name]) => early.has(name));
  const later = outputs.filter(([name]) => !early.has(name));
  const first = pruned({ ...graph, outputs: new Map(own) });
  const fed = fedNodes(graph);
  const done = new Set(first.nodes.filter((node) => fed.has(node)));
  const made = new Set([...done].flatMap((node) => node.outputs));
  const whole = pruned({ ...graph, outputs: new Map(later) });
  const nodes = whole.nodes.filter((node) => !done.has(node));
  const kept = [...readBy(nodes, later)].filter((value) => made.has(value));
  const withKept = [...own, ...kept.map((value) => [keptName(value), value] as const)];
  return {
    first: withInputs({ ...first, outputs: new Map(withKept) }),
    second: withInputs(pruned({ ...whole, nodes, inputs: [...graph.inputs, ...kept] })),
    kept,
  };
}

/** Values that nodes take, or that are outputs. */
function readBy(
  nodes: readonly GraphNode[],
  outputs: Iterable<readonly [string, Value]>,
): ReadonlySet<Value> {
  const values = new Set<Value>();
  for (const { inputs } of nodes) for (const input of inputs) if (input !== null) values.add(input);
  for (const [, value] of outputs) values.add(value);
  return values;
}

/** Without inputs that nothing takes. */
function withInputs(graph: Graph): Graph {
  const read = readBy(graph.nodes, graph.outputs);
  return { ...graph, inputs: graph.inputs.filter((value) => read.has(value)) };
}

/** Nodes that depend on an input of the graph. */
function fedNodes({ inputs, nodes }: Graph): ReadonlySet<GraphNode> {
  const values = new Set(inputs);
  return new Set(
    nodes.filter((node) => {
      if (!node.inputs.some((input) => input !== null && values.has(input))) return false;
      for (const output of node.outputs) values.add(output);
      return true;
    }),
  );
}
