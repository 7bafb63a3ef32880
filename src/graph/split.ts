/**
 * A graph as parts that run one after the other, so that weights and results of one part alone need be in memory. A part takes
 * what earlier ones made as inputs, under the values' own names.
 */
import { dtypeWidth } from '../formats/dtype.ts';
import { sizeOf } from '../tensor/tensor.ts';
import type { Graph, GraphNode, GraphWeight } from './graph.ts';
import { pruned } from './prune.ts';
import type { Value } from './value.ts';

/** Some consecutive nodes of a graph. */
export interface GraphPart {
  /** Its outputs are those of the whole that are made here, by their names, and what later parts read, by `passedOutput`. */
  readonly graph: Graph;
  /** Inputs that earlier parts made. */
  readonly taken: readonly Value[];
  /** What later parts read. */
  readonly passed: readonly Value[];
}

/** Name of the output that hands a value to later parts. */
export const passedOutput = ({ name }: Value): string => `passed:${name}`;

/** How far a cut may lie from equal shares of the weights, in such shares: there is little to hand on somewhere near. */
const SLACK = 0.25;

/** Bytes of all weights as they lie in their files. */
export function weightBytes({ weights }: Graph): number {
  return weights.reduce((sum, weight) => sum + storedBytes(weight), 0);
}

/**
 * Cut a graph into as many parts, or fewer where it has not the nodes, of about equal bytes of weights, where little is handed
 * on. What depends on weights and constants alone is computed in every part that reads it.
 */
export function splitGraph(graph: Graph, count: number): GraphPart[] {
  const fixed = fixedBytes(graph);
  const isFixed = ({ outputs }: GraphNode): boolean => fixed.has(outputs[0]!);
  const ahead = graph.nodes.filter(isFixed);
  const nodes = graph.nodes.filter((node) => !isFixed(node));
  const ends = [...cuts(nodes, fixed, count), nodes.length];
  const made = new Set<Value>();
  let start = 0;
  return ends.map((end) => {
    const own = nodes.slice(start, end);
    start = end;
    const read = new Set(own.flatMap(({ inputs }) => inputs));
    const readLater = new Set(nodes.slice(end).flatMap(({ inputs }) => inputs));
    const taken = [...made].filter((value) => read.has(value));
    const ownValues = new Set(own.flatMap(({ outputs }) => outputs));
    const passed = [...ownValues].filter((value) => readLater.has(value));
    for (const value of ownValues) made.add(value);
    // What no part makes is given, and left to the last one.
    const outputs = [...graph.outputs].filter(
      ([, value]) => ownValues.has(value) || (end === nodes.length && !made.has(value)),
    );
    const wanted = new Set(outputs.map(([, value]) => value));
    return {
      graph: pruned({
        ...graph,
        inputs: [...graph.inputs.filter((value) => read.has(value) || wanted.has(value)), ...taken],
        outputs: new Map([...outputs, ...passed.map((value) => [passedOutput(value), value] as const)]),
        nodes: [...ahead, ...own],
      }),
      taken,
      passed,
    };
  });
}

const storedBytes = ({ raw }: GraphWeight): number => sizeOf(raw.shape) * dtypeWidth(raw.dtype);

/** Weights, constants, and what is computed of nothing else, each with the bytes of the weights in it. */
function fixedBytes({ weights, constants, nodes }: Graph): ReadonlyMap<Value, number> {
  const bytes = new Map<Value, number>();
  for (const { value } of constants) bytes.set(value, 0);
  for (const weight of weights) bytes.set(weight.value, storedBytes(weight));
  for (const { inputs, outputs } of nodes) {
    const given = inputs.filter((input) => input !== null);
    if (given.length === 0 || !given.every((input) => bytes.has(input))) continue;
    const sum = given.reduce((total, input) => total + bytes.get(input)!, 0);
    for (const output of outputs) bytes.set(output, sum);
  }
  return bytes;
}

/** Ends of all parts but the last, as numbers of nodes. */
function cuts(nodes: readonly GraphNode[], fixed: ReadonlyMap<Value, number>, count: number): number[] {
  const lastRead = new Map<Value, number>();
  for (const [i, { inputs }] of nodes.entries()) {
    for (const input of inputs) if (input !== null) lastRead.set(input, i);
  }
  const seen = new Set<Value>();
  const ends: { end: number; weights: number; handed: number }[] = [];
  const dropped = new Map<number, number>();
  let [weights, handed] = [0, 0];
  for (const [i, node] of nodes.entries()) {
    for (const input of node.inputs) {
      if (input === null || seen.has(input)) continue;
      seen.add(input);
      weights += fixed.get(input) ?? 0;
    }
    for (const output of node.outputs) {
      const last = lastRead.get(output);
      if (last === undefined) continue;
      const bytes = sizeOf(output.shape);
      handed += bytes;
      dropped.set(last, (dropped.get(last) ?? 0) + bytes);
    }
    handed -= dropped.get(i) ?? 0;
    if (i + 1 < nodes.length) ends.push({ end: i + 1, weights, handed });
  }
  const share = weights / count;
  const found = new Set<number>();
  for (let part = 1; part < count && ends.length > 0; part++) {
    const distance = (each: (typeof ends)[number]): number => Math.abs(each.weights - part * share);
    const near = ends.filter((each) => distance(each) <= SLACK * share);
    const best =
      near.length > 0
        ? near.reduce((a, b) => (b.handed < a.handed ? b : a))
        : ends.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    found.add(best.end);
  }
  return [...found].sort((a, b) => a - b);
}
