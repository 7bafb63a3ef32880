/**
 * `cat` of plain LoRA layers, straight from the files' numbers to the written factors: bit for bit what methods/cat.ts and
 * `encodeLayer` give, without their copies in float64. Anything unusual is left to them.
 */
import {
  type AdapterLayer,
  type AdapterModule,
  type Kernel,
  kernelArea,
  type LoraLayer,
} from '../adapters/adapter.ts';
import { balancingShift, type FactorDType, limitOf } from '../adapters/encode-layer.ts';
import { type DType, decodeFloat32, encodeFloat, float16Values } from '../formats/dtype.ts';
import { elementCount, memoryTensor, type RawTensor, readBytes } from '../formats/raw-tensor.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';

/** Types whose numbers float32 holds exactly. */
const isNarrow = (dtype: DType): boolean => dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';

interface PlainTerm {
  readonly up: RawTensor;
  readonly down: RawTensor;
  readonly rank: number;
  readonly factor: number;
}

/**
 * Σ strength · ΔW as one layer of scale 1.
 * @param parts  of one layer, each with its strength
 * @returns `null` where the general way is needed: other kinds, unequal shapes, more factors than the layer has rank,
 *   numbers out of the usual range
 */
export function concatenate(
  module: AdapterModule,
  kernel: Kernel | null,
  parts: readonly { readonly layer: AdapterLayer; readonly strength: number }[],
  dtype: FactorDType,
): LoraLayer | null {
  const terms = parts.map(({ layer, strength }) => plainTerm(layer, strength));
  const first = terms[0];
  if (first === null || first === undefined) return null;
  const m = first.up.shape[0]!;
  const n = elementCount(first.down.shape) / first.rank;
  const plain = terms.filter((term) => term !== null);
  const fits = plain.filter(
    ({ up, down, rank }) =>
      up.shape[0] === m && elementCount(down.shape) === rank * n && up.shape[1] === rank,
  );
  const rank = fits.reduce((total, term) => total + term.rank, 0);
  if (fits.length < parts.length || rank > Math.min(m, n)) return null;
  const up = new Float32Array(m * rank);
  const down = new Float32Array(rank * n);
  let [largestUp, largestDown] = [0, 0];
  let at = 0;
  for (const term of fits) {
    const ups = numbersOf(term.up);
    const before = { target: up, start: at, width: term.rank, stride: rank };
    largestUp = Math.max(largestUp, copyScaled(ups, term.factor, before));
    const whole = { target: down, start: at * n, width: term.rank * n, stride: term.rank * n };
    largestDown = Math.max(largestDown, copyScaled(numbersOf(term.down), 1, whole));
    at += term.rank;
  }
  const limit = limitOf(dtype);
  if (!(largestUp < limit && largestDown < limit) || balancingShift(largestUp, largestDown) !== 0)
    return null;
  const id = adapterModuleId(module);
  return {
    component: module.component,
    layerName: module.layerName,
    own: module.own,
    kind: 'lora',
    up: memoryTensor(id, dtype, [m, rank, ...(kernel ?? []).map(() => 1)], encodeFloat(up, dtype)),
    down: memoryTensor(
      id,
      dtype,
      [rank, n / kernelArea(kernel), ...(kernel ?? [])],
      encodeFloat(down, dtype),
    ),
    mid: null,
    rank,
    scale: 1,
    kernel,
    doraScale: null,
    biasDiff: null,
  };
}

/** Numbers, or codes and what they mean: halves are looked up while they are copied. */
interface Numbers {
  readonly codes: Float32Array | Uint16Array;
  readonly values: Float32Array | null;
}

function numbersOf(tensor: RawTensor): Numbers {
  const bytes = readBytes(tensor);
  if (tensor.dtype !== 'F16' || bytes.byteOffset % 2 !== 0)
    return { codes: decodeFloat32(bytes, tensor.dtype), values: null };
  return {
    codes: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2),
    values: float16Values(),
  };
}

/** Rows of `width` numbers, times a factor, to rows `stride` apart. @returns the largest magnitude; NaN if any is */
function copyScaled(
  { codes, values }: Numbers,
  factor: number,
  {
    target,
    start,
    width,
    stride,
  }: {
    readonly target: Float32Array;
    readonly start: number;
    readonly width: number;
    readonly stride: number;
  },
): number {
  let most = 0;
  for (let from = 0, to = start; from < codes.length; to += stride) {
    if (values === null) {
      for (let j = 0; j < width; j++, from++) {
        const value = factor * codes[from]!;
        most = Math.max(most, Math.abs(value));
        target[to + j] = value;
      }
    } else {
      for (let j = 0; j < width; j++, from++) {
        const value = factor * values[codes[from]!]!;
        most = Math.max(most, Math.abs(value));
        target[to + j] = value;
      }
    }
  }
  return most;
}

function plainTerm(layer: AdapterLayer, strength: number): PlainTerm | null {
  if (layer.kind !== 'lora' || layer.mid !== null || layer.doraScale !== null || layer.biasDiff !== null)
    return null;
  const { up, down, rank, scale } = layer;
  return isNarrow(up.dtype) && isNarrow(down.dtype) && rank !== null && rank > 0
    ? { up, down, rank, factor: scale * strength }
    : null;
}
