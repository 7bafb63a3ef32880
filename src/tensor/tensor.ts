/** Dense arrays in memory, row-major: what graphs are fed with and what they return. */
import { ShapeError } from '../errors.ts';

export type TensorData = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array | Uint16Array;
/** ONNX names; `bool` holds 0 or 1 in a Uint8Array, `float16` its bits in a Uint16Array. */
export type TensorDType = 'float32' | 'float64' | 'float16' | 'int32' | 'int64' | 'uint8' | 'bool';

export interface Tensor<D extends TensorData = TensorData> {
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
  readonly data: D;
}

/** Number of elements of a shape; 1 for a scalar. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function checkLength(shape: readonly number[], length: number): void {
  if (sizeOf(shape) !== length) {
    throw new ShapeError(`tensor [${shape.join(', ')}]: expected ${sizeOf(shape)} numbers, got ${length}`);
  }
}

/** A float32 tensor over `data` (not copied), zeros when left out. @throws {ShapeError} if the length does not fit. */
export function float32(
  shape: readonly number[],
  data: Float32Array | readonly number[] = new Float32Array(sizeOf(shape)),
): Tensor<Float32Array> {
  checkLength(shape, data.length);
  return { dtype: 'float32', shape, data: data instanceof Float32Array ? data : Float32Array.from(data) };
}

/** A float64 tensor over `data` (not copied), zeros when left out. @throws {ShapeError} if the length does not fit. */
export function float64(
  shape: readonly number[],
  data: Float64Array | readonly number[] = new Float64Array(sizeOf(shape)),
): Tensor<Float64Array> {
  checkLength(shape, data.length);
  return { dtype: 'float64', shape, data: data instanceof Float64Array ? data : Float64Array.from(data) };
}

/** An int64 tensor from plain integers. @throws {ShapeError} if the length does not fit. */
export function int64(shape: readonly number[], values: readonly number[]): Tensor<BigInt64Array> {
  checkLength(shape, values.length);
  return { dtype: 'int64', shape, data: BigInt64Array.from(values, (value) => BigInt(value)) };
}
