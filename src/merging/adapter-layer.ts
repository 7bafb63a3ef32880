/** From exact changes back to layers of a LoRA: rounding to a dtype, shapes of convolutions, scales folded in. */
import type { AdapterLayer, AdapterModule } from '../concepts/adapter.ts';
import { NumericalError } from '../errors.ts';
import { encodeFloat, type WritableFloat } from '../formats/dtype.ts';
import { memoryTensor, type RawTensor, readFloat64 } from '../formats/raw-tensor.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { adapterModuleId } from '../models/keys/sd-modules.ts';

/** A layer of plain LoRA. */
export type LoraLayer = Extract<AdapterLayer, { kind: 'lora' }>;

/** dtypes that merges write. */
export type FactorDType = 'F32' | 'F16' | 'BF16';

/** From here on numbers round to infinity in float16. */
const FLOAT16_OVERFLOW = 65520;

/**
 * Numbers as a tensor.
 * @throws {NumericalError} if one is not finite, or too large for the dtype
 */
export function encodeTensor(
  name: string,
  shape: readonly number[],
  values: ArrayLike<number>,
  dtype: WritableFloat,
): RawTensor {
  const limit =
    dtype === 'F16' ? FLOAT16_OVERFLOW : dtype === 'F64' ? Number.MAX_VALUE : 3.4028235677973366e38;
  for (let i = 0; i < values.length; i++) {
    if (!(Math.abs(values[i]!) < limit)) {
      throw new NumericalError(`expected finite numbers that ${dtype} can hold, got ${values[i]}`, {
        layer: name,
        value: values[i]!,
      });
    }
  }
  const bytes =
    dtype === 'F64'
      ? new Uint8Array(Float64Array.from(values).buffer)
      : encodeFloat(Float32Array.from(values), dtype);
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
  const largest = ({ data }: Matrix): number => {
    let most = 0;
    for (let i = 0; i < data.length; i++) if (Math.abs(data[i]!) > most) most = Math.abs(data[i]!);
    return most;
  };
  const [u, d] = [largest(up), largest(down)];
  if (!(u > 0 && d > 0 && Number.isFinite(u) && Number.isFinite(d))) return [up, down];
  const shift = Math.round(Math.log2(u / d) / 2);
  // Factors of usual sizes stay as they are.
  if (Math.abs(shift) < 4) return [up, down];
  const times = ({ rows, cols, data }: Matrix, by: number): Matrix =>
    matrix(
      rows,
      cols,
      data.map((value) => value * by),
    );
  return [times(up, 2 ** -shift), times(down, 2 ** shift)];
}

/** `loraAlpha` as files store it. */
export function loraAlphaOf(layer: LoraLayer): number {
  return layer.scale * layer.rank!;
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
