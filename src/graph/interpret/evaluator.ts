/** The form of a slow evaluation rule, and index arithmetic that rules share. */
import { floatToHalf, halfToFloat } from '../../formats/dtype.ts';
import { sizeOf, type Tensor } from '../../tensor/tensor.ts';
import type { NodeOf } from '../graph.ts';
import type { OpType } from '../op-types.ts';
import type { Value } from '../value.ts';

/** A tensor while it is being interpreted: plain numbers, row-major. */
export interface Dense {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export type Evaluator<K extends OpType> = (inputs: readonly (Dense | null)[], node: NodeOf<K>) => Dense[];
export type Evaluators<K extends OpType> = { readonly [P in K]: Evaluator<P> };

export const dense = (
  shape: readonly number[],
  data: Float64Array = new Float64Array(sizeOf(shape)),
): Dense => ({
  shape,
  data,
});

/** Row-major strides in elements. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides: number[] = new Array(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

/** Calls `visit(flat index, multi-index)` for every element in row-major order. The multi-index is reused. */
export function forEachIndex(
  shape: readonly number[],
  visit: (flat: number, index: readonly number[]) => void,
): void {
  const index = shape.map(() => 0);
  const size = sizeOf(shape);
  for (let flat = 0; flat < size; flat++) {
    visit(flat, index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
}

/** Offset into a tensor of `shape` that is broadcast to the axes of `index`. */
export function broadcastOffset(
  index: readonly number[],
  shape: readonly number[],
  strides: readonly number[],
): number {
  const skip = index.length - shape.length;
  let offset = 0;
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] !== 1) offset += index[axis + skip]! * strides[axis]!;
  }
  return offset;
}

/** Numbers of any dtype as float64. */
export function toDense({ dtype, shape, data }: Tensor): Dense {
  if (dtype === 'float16') return { shape, data: Float64Array.from(data as Uint16Array, halfToFloat) };
  return { shape, data: Float64Array.from(data as ArrayLike<number | bigint>, Number) };
}

/** Back to the dtype that the graph promises; float32 values are rounded here, after every node. */
export function fromDense({ shape, data }: Dense, { dtype }: Value): Tensor {
  switch (dtype) {
    case 'float16':
      return { dtype, shape, data: Uint16Array.from(data, floatToHalf) };
    case 'float32':
    case 'bfloat16':
      return { dtype: 'float32', shape, data: Float32Array.from(data) };
    case 'float64':
      return { dtype, shape, data };
    case 'int32':
      return { dtype, shape, data: Int32Array.from(data) };
    case 'int64':
      return { dtype, shape, data: BigInt64Array.from(data, (value) => BigInt(value)) };
    case 'bool':
    case 'uint8':
      return { dtype, shape, data: Uint8Array.from(data) };
  }
}
