/** What the functions of `ops/` write their nodes to. */
import type { OpAttributes, OpType } from './op-types.ts';
import type { Value } from './value.ts';

export interface NodeWriter {
  /**
   * Add one node.
   * @returns its outputs
   * @throws {ShapeError} with the path of the call, when the inputs do not fit the operator
   */
  node<K extends OpType>(
    op: K,
    inputs: readonly (Value | null)[],
    attributes: OpAttributes[K],
  ): readonly Value[];
}
