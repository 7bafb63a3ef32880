/** From exact changes back to layers of a LoRA: rounding to a dtype, shapes of convolutions, scales folded in. */

import { NumericalError } from '../errors.ts';
import { encodeFloat, type WritableFloat } from '../formats/dtype.ts';
import { memoryTensor, type RawTensor, readFloat64 } from '../formats/raw-tensor.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import {
  type AdapterLayer,
  type AdapterModule,
  type FullFactor,
  type Kernel,
  kernelArea,
  type LoraLayer,
  type PairFactor,
} from './adapter.ts';
import { readFinite } from './finite.ts';

/** dtypes that merges write. */
export type FactorDType = 'F32' | 'F16' | 'BF16';

type Numbers = Float64Array | Float32Array;

/** From here on numbers round to infinity. */
export function limitOf(dtype: WritableFloat): number {
  return dtype === 'F16' ? 65520 : dtype === 'F64' ? Number.POSITIVE_INFINITY : 3.4028235677973366e38;
}

/** The largest |value|; NaN if any is. */
export function largestMagnitude(values: Numbers): number {
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
  values: Numbers,
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
 * A change as a LoRA layer of scale 1, its factors balanced.
 * @param kernel axes of the down factor's inputs for a convolution; `null` for a linear layer
 */
export function encodeLayer(
  module: AdapterModule,
  kernel: Kernel | null,
  delta: LowRank,
  dtype: FactorDType,
  bias: Float64Array | null = null,
): LoraLayer {
  const [up, down] = balance(delta);
  const factors = { m: up.rows, rank: up.cols, up: up.data, down: down.data };
  return encodeFactors(module, kernel, factors, dtype, bias);
}

/** up [m, rank] and down [rank, n · kernel], row-major. */
interface FactorNumbers {
  readonly m: number;
  readonly rank: number;
  readonly up: Numbers;
  readonly down: Numbers;
}

/**
 * Factors as a LoRA layer of scale 1, as they are.
 * @param kernel axes of the down factor's inputs for a convolution; `null` for a linear layer
 */
export function encodeFactors(
  module: AdapterModule,
  kernel: Kernel | null,
  { m, rank, up, down }: FactorNumbers,
  dtype: FactorDType,
  bias: Float64Array | null = null,
): LoraLayer {
  const id = adapterModuleId(module);
  const n = down.length / (rank * kernelArea(kernel));
  return {
    component: module.component,
    layerName: module.layerName,
    own: module.own,
    kind: 'lora',
    up: encodeTensor(id, [m, rank, ...(kernel ?? []).map(() => 1)], up, dtype),
    down: encodeTensor(id, [rank, n, ...(kernel ?? [])], down, dtype),
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

/** The same layer with other tensors in the place of its own, magnitude and bias included; scales stay. */
export function withTensors<L extends AdapterLayer>(layer: L, change: (tensor: RawTensor) => RawTensor): L {
  const maybe = (tensor: RawTensor | null): RawTensor | null => (tensor === null ? null : change(tensor));
  const pair = ({ a, b, core }: PairFactor): PairFactor => ({
    a: change(a),
    b: change(b),
    core: maybe(core),
  });
  const factor = (own: PairFactor | FullFactor): PairFactor | FullFactor =>
    'full' in own ? { full: change(own.full) } : pair(own);
  const weights = (own: AdapterLayer): Partial<AdapterLayer> => {
    switch (own.kind) {
      case 'lora':
        return { up: change(own.up), down: change(own.down), mid: maybe(own.mid) };
      case 'loha':
        return { w1: pair(own.w1), w2: pair(own.w2) };
      case 'lokr':
        return { w1: factor(own.w1), w2: factor(own.w2) };
      case 'diff':
        return { diff: change(own.diff) };
      case 'ia3':
      case 'weight':
        return { weight: change(own.weight) };
    }
  };
  const { doraScale, biasDiff } = layer;
  return { ...layer, ...weights(layer), doraScale: maybe(doraScale), biasDiff: maybe(biasDiff) };
}

/** A tensor times a number, in its own dtype where that holds the products exactly, otherwise in float32. */
function scaled(tensor: RawTensor, factor: number): RawTensor {
  const products = readFinite(tensor).map((value) => value * factor);
  const narrowable = tensor.dtype === 'F16' || tensor.dtype === 'BF16';
  if (narrowable && largestMagnitude(products) < limitOf(tensor.dtype)) {
    const narrow = encodeTensor(tensor.name, tensor.shape, products, tensor.dtype);
    const back = readFloat64(narrow);
    if (back.every((value, i) => value === products[i])) return narrow;
  }
  return encodeTensor(tensor.name, tensor.shape, products, tensor.dtype === 'F64' ? 'F64' : 'F32');
}

/** The same layer with scale 1 if it has no rank: files store an alpha only beside one. */
export function foldWholeScale(layer: AdapterLayer): AdapterLayer {
  if (layer.rank !== null || layer.scale === 1) return layer;
  switch (layer.kind) {
    case 'lokr':
      return 'full' in layer.w1
        ? { ...layer, w1: { full: scaled(layer.w1.full, layer.scale) }, scale: 1 }
        : layer;
    case 'diff':
      return { ...layer, diff: scaled(layer.diff, layer.scale), scale: 1 };
    case 'ia3':
      return { ...layer, weight: scaled(layer.weight, layer.scale), scale: 1 };
    default:
      return layer;
  }
}

/** `loraAlpha` as files store it. */
export function loraAlphaOf(layer: Pick<LoraLayer, 'scale' | 'rank'>): number {
  return layer.scale * layer.rank;
}

/**
 * The same change with another scale: the rest goes into `up`, in its own dtype where that holds the products exactly
 * (powers of two), otherwise in float32.
 * @param scale default 1, for files that store no alpha
 */
export function foldScale(layer: LoraLayer, scale = 1): LoraLayer {
  if (layer.scale === scale) return layer;
  return { ...layer, up: scaled(layer.up, layer.scale / scale), scale };
}

/**
 * The same changes with one alpha for all of them, that of most: diffusers (0.35 and 0.42 alike) takes one alpha for a file
 * in kohya's names, whatever stands beside each layer.
 * @param layers those without a rank have no alpha, and stay
 */
export function withOneAlpha(layers: readonly AdapterLayer[]): AdapterLayer[] {
  const ranked = layers.filter((layer) => layer.kind === 'lora');
  if (ranked.length === 0) return [...layers];
  const loraAlpha = mostCommon(ranked.map(loraAlphaOf));
  return layers.map((layer) => {
    // Compared as files hold it: scale · rank of equal alphas may differ in its last bits.
    if (layer.kind !== 'lora' || Math.fround(loraAlphaOf(layer)) === Math.fround(loraAlpha)) return layer;
    return foldScale(layer, loraAlpha / layer.rank);
  });
}

/** Of equally frequent values the first. @param values at least one */
export function mostCommon(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}
