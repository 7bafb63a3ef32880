/** From exact changes back to layers of a LoRA: rounding to a dtype, shapes of convolutions, scales folded in. */

import { NumericalError } from '../errors.ts';
import { encodeFloat, type WritableFloat } from '../formats/dtype.ts';
import { memoryTensor, type RawTensor, readFloat64 } from '../formats/raw-tensor.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import type { AdapterModule, LoraLayer } from './adapter.ts';

/** dtypes that merges write. */
export type FactorDType = 'F32' | 'F16' | 'BF16';

/** From here on numbers round to infinity. */
export function limitOf(dtype: WritableFloat): number {
  return dtype === 'F16' ? 65520 : dtype === 'F64' ? Number.POSITIVE_INFINITY : 3.4028235677973366e38;
}

/** The largest |value|; NaN if any is. */
export function largestMagnitude(values: Float64Array | Float32Array): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]!));
  return most;
}

/**
 * Numbers as a tensor.
 * @throws {NumericalError} if one is not finite, or too large for the dtype
 */
export function encodeTensor(
  name: string,
  shape: readonly number[],
  values: Float64Array | Float32Array,
  dtype: WritableFloat,
): RawTensor {
  const limit = limitOf(dtype);
  if (!(largestMagnitude(values) < limit)) {
    const bad = values.find((value) => !(Math.abs(value) < limit))!;
    throw new NumericalError(`expected finite numbers that ${dtype} can hold, got ${bad}`, {
      layer: name,
      value: bad,
    });
  }
  const bytes =
    dtype === 'F64'
      ? new Uint8Array(Float64Array.from(values).buffer)
      : encodeFloat(new Float32Array(values), dtype);
  return memoryTensor(name, dtype, shape, bytes);
}

/**
 * A change as a LoRA layer of scale 1.
 * @param kernel axes of the down factor's inputs for a convolution; `null` for a linear layer
 */
export function encodeLayer(
  module: AdapterModule,
  kernel: readonly [number, number] | null,
  delta: LowRank,
  dtype: FactorDType,
  bias: Float64Array | null = null,
): LoraLayer {
  const id = adapterModuleId(module);
  const { rows: m, cols: rank } = delta.up;
  const n = delta.down.cols / (kernel === null ? 1 : kernel[0] * kernel[1]);
  const [up, down] = balance(delta);
  return {
    component: module.component,
    layerName: module.layerName,
    kind: 'lora',
    up: encodeTensor(id, kernel === null ? [m, rank] : [m, rank, 1, 1], up.data, dtype),
    down: encodeTensor(id, kernel === null ? [rank, n] : [rank, n, ...kernel], down.data, dtype),
    mid: null,
    rank,
    scale: 1,
    kernel,
    doraScale: null,
    biasDiff: bias === null ? null : encodeTensor(id, [m], bias, dtype),
  };
}

/**
 * Move a power of two from the larger factor to the smaller, so that neither leaves the range of half precision. Exact.
 */
function balance({ up, down }: LowRank): readonly [Matrix, Matrix] {
  const shift = balancingShift(largestMagnitude(up.data), largestMagnitude(down.data));
  if (shift === 0) return [up, down];
  const times = ({ rows, cols, data }: Matrix, by: number): Matrix =>
    matrix(
      rows,
      cols,
      data.map((value) => value * by),
    );
  return [times(up, 2 ** -shift), times(down, 2 ** shift)];
}

/** By how many powers of two the larger factor is made smaller, and the other larger; 0 for factors of usual sizes. */
export function balancingShift(largestUp: number, largestDown: number): number {
  if (!(largestUp > 0 && largestDown > 0 && Number.isFinite(largestUp) && Number.isFinite(largestDown)))
    return 0;
  const shift = Math.round(Math.log2(largestUp / largestDown) / 2);
  return Math.abs(shift) < 4 ? 0 : shift;
}

/** `loraAlpha` as files store it. */
export function loraAlphaOf(layer: Pick<LoraLayer, 'scale' | 'rank'>): number {
  return layer.scale * layer.rank;
}

/**
 * The same layer with scale 1, for files that store no alpha: the scale goes into `up`, in its own dtype where that
 * holds the products exactly (powers of two), otherwise in float32.
 */
export function foldScale(layer: LoraLayer): LoraLayer {
  if (layer.scale === 1) return layer;
  const { up } = layer;
  const products = readFloat64(up).map((value) => value * layer.scale);
  const id = adapterModuleId(layer);
  let folded: RawTensor | null = null;
  if (up.dtype === 'F16' || up.dtype === 'BF16') {
    const narrow = encodeTensor(id, up.shape, products, up.dtype);
    const back = readFloat64(narrow);
    if (back.every((value, i) => value === products[i])) folded = narrow;
  }
  return {
    ...layer,
    up: folded ?? encodeTensor(id, up.shape, products, up.dtype === 'F64' ? 'F64' : 'F32'),
    scale: 1,
  };
}
