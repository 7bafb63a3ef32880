/**
 * Recomputation of blocks (gradient checkpointing, Chen et al. 2016): the nodes of a block are written a second
 * time, so that their values need not be kept from the forward pass until their gradients are due.
 */

import { sizeOf } from '../tensor/tensor.ts';
import type { GraphBuilder } from './builder.ts';
import type { GraphNode } from './graph.ts';
import { add } from './ops/elementwise.ts';
import { reshape, slice } from './ops/movement.ts';
import type { Value } from './value.ts';
import { scaled } from './vjp/rule.ts';

/** Consecutive nodes of one name. */
export interface Block {
  readonly nodes: readonly GraphNode[];
}

/** The block of each node; null for nodes without one. */
export function blocksOf(
  nodes: readonly GraphNode[],
  blockOf: (node: GraphNode) => string | null,
): readonly (Block | null)[] {
  let name: string | null = null;
  let members: GraphNode[] = [];
  let block: Block | null = null;
  return nodes.map((node) => {
    const own = blockOf(node);
    if (own === null) block = null;
    else if (own !== name || block === null) {
      members = [];
      block = { nodes: members };
    }
    name = own;
    if (block !== null) members.push(node);
    return block;
  });
}

/**
 * Write a block again.
 *
 * The copies must not run, nor be merged with the originals by the runtime, before their gradient is due. So
 * every value that is being differentiated gets 0 · dy[0] added where it enters the block.
 * @param live values that are being differentiated
 * @param dy   gradient of one of the block's results
 * @returns each value made inside the block → its second computation
 */
export function recompute(
  g: GraphBuilder,
  { nodes }: Block,
  live: ReadonlySet<Value>,
  dy: Value,
): Map<Value, Value> {
  const copies = new Map<Value, Value>();
  const entering = new Map<Value, Value>();
  const nothing = scaled(g, slice(g, reshape(g, dy, [sizeOf(dy.shape)]), 0, 0, 1), 0);
  const made = new Set(nodes.flatMap(({ outputs }) => outputs));
  const substitute = (value: Value): Value => {
    const copy = copies.get(value) ?? entering.get(value);
    if (copy !== undefined) return copy;
    if (!live.has(value) || made.has(value)) return value;
    const tied = add(g, value, nothing);
    entering.set(value, tied);
    return tied;
  };
  for (const node of nodes) {
    // What does not change with the wanted values is small (the time embedding) or a weight: kept.
    if (!node.outputs.some((output) => live.has(output))) continue;
    const inputs = node.inputs.map((input) => (input === null ? null : substitute(input)));
    const outputs = g.node(node.op, inputs, node.attributes);
    node.outputs.forEach((output, i) => {
      copies.set(output, outputs[i]!);
    });
  }
  return copies;
}
