/**
 * Reverse-mode differentiation over a graph that is being written or was finished (`GraphBuilder.continuing`): adds the
 * nodes that compute gradients to the same graph. Only values that lie between what is asked for and the results
 * are differentiated; a frozen weight costs nothing.
 */
import { NoGradientError, ShapeError } from '../errors.ts';
import type { GraphBuilder } from './builder.ts';
import type { GraphNode, NodeOf } from './graph.ts';
import type { OpType } from './op-types.ts';
import { add } from './ops/elementwise.ts';
import { type Block, blocksOf, recompute } from './recompute.ts';
import { describe, type Value } from './value.ts';
import { inputGradients, type VjpTable, vjps } from './vjp/rules.ts';

export interface GradientOptions {
  /**
   * Names the block that a node belongs to, null for none. Values inside a block are computed a second time when
   * its gradient is due, instead of being kept: memory for one more forward pass. Default: nothing is recomputed.
   */
  readonly blockOf?: (node: GraphNode) => string | null;
  /** Gradient rules; default the table of `vjp/`. */
  readonly rules?: VjpTable;
}

/**
 * Gradients of Σ_k ⟨seed_k, result_k⟩ with respect to `wanted`.
 * @param seeds  result → its gradient, of the same shape; for a scalar loss a one
 * @param wanted values to differentiate by, usually inputs
 * @returns gradient of each wanted value, of its shape
 * @throws {NoGradientError} if a path runs through an operator without a gradient, or a wanted value does not
 *   reach any result
 */
export function gradients(
  g: GraphBuilder,
  seeds: ReadonlyMap<Value, Value>,
  wanted: readonly Value[],
  { blockOf = () => null, rules = vjps as unknown as VjpTable }: GradientOptions = {},
): Map<Value, Value> {
  const nodes = [...g.nodes];
  const live = dependents(nodes, wanted);
  const found = new Map<Value, Value>();
  for (const [result, seed] of seeds) {
    if (seed.shape.join() !== result.shape.join()) {
      throw new ShapeError(`gradient of ${result.name}: expected ${describe(result)}, got ${describe(seed)}`);
    }
    found.set(result, seed);
  }
  const blocks = blocksOf(nodes, blockOf);
  let entered: Block | null = null;
  let replayed: ReadonlyMap<Value, Value> = new Map();
  for (let i = nodes.length - 1; i >= 0; i--) {
    const node = nodes[i]! as NodeOf<OpType>;
    const dys = node.outputs.map((output) => found.get(output) ?? null);
    const needs = node.inputs.map((input) => input !== null && live.has(input));
    const first = dys.find((dy) => dy !== null);
    if (first === undefined || !needs.some(Boolean) || node.op === 'StopGradient') continue;
    g.scope(`gradient/${node.name}`, () => {
      const block = blocks[i] ?? null;
      if (block !== entered) {
        entered = block;
        replayed = block === null ? new Map() : recompute(g, block, live, first);
      }
      const own = (value: Value): Value => replayed.get(value) ?? value;
      const again = {
        ...node,
        inputs: node.inputs.map((input) => (input === null ? null : own(input))),
        outputs: node.outputs.map(own),
      } as NodeOf<OpType>;
      inputGradients(g, again, dys, needs, rules).forEach((d, k) => {
        const input = node.inputs[k];
        if (d === null || !input || !needs[k]) return;
        if (d.shape.join() !== input.shape.join()) {
          throw new ShapeError(
            `internal: gradient of ${node.op} input ${k}: expected ${describe(input)}, got ${describe(d)}`,
          );
        }
        const sum = found.get(input);
        found.set(input, sum === undefined ? d : add(g, sum, d));
      });
    });
  }
  return new Map(
    wanted.map((value) => {
      const d = found.get(value);
      if (d === undefined) throw new NoGradientError(`${value.name}: no result depends on it`);
      return [value, d];
    }),
  );
}

/** Values that `wanted` can change through differentiable paths, `wanted` included. */
function dependents(nodes: readonly GraphNode[], wanted: readonly Value[]): ReadonlySet<Value> {
  const live = new Set(wanted);
  for (const { op, inputs, outputs } of nodes) {
    if (op === 'StopGradient' || !inputs.some((input) => input !== null && live.has(input))) continue;
    for (const output of outputs) live.add(output);
  }
  return live;
}
