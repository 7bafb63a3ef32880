/** A finished graph: nodes in order, each reading only values made before it. */
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { OpAttributes, OpType } from './op-types.ts';
import type { Value } from './value.ts';

/** One application of an operator. `null` stands for an optional input that was left out. */
export type GraphNode = { [K in OpType]: NodeOf<K> }[OpType];

export interface NodeOf<K extends OpType> {
  readonly op: K;
  /** Path of the call that made it, e.g. `down_blocks.0/resnets.0/conv1/Conv_12`. */
  readonly name: string;
  readonly inputs: readonly (Value | null)[];
  readonly outputs: readonly Value[];
  readonly attributes: OpAttributes[K];
}

/** A weight that stays where it lies in the user's file. */
export interface GraphWeight {
  /** dtype and declared shape (same element count as the stored shape). */
  readonly value: Value;
  readonly raw: RawTensor;
}

export interface Graph {
  readonly inputs: readonly Value[];
  /** Name given to each result → the value. */
  readonly outputs: ReadonlyMap<string, Value>;
  readonly nodes: readonly GraphNode[];
  readonly constants: readonly { readonly value: Value; readonly tensor: Tensor }[];
  readonly weights: readonly GraphWeight[];
}
