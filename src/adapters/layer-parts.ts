/**
 * From a file's named parts to layers of one kind each, checked: nothing may be left over, missing, doubled, or of a
 * shape that contradicts the rest of its layer.
 */
import { FormatError } from '../errors.ts';
import { isFloatDType } from '../formats/dtype.ts';
import { elementCount, type RawTensor, readFloat64, rowMajorStrides } from '../formats/raw-tensor.ts';
import {
  type AdapterModule,
  type Architecture,
  adapterModuleId,
  kernelOfLayer,
} from '../models/families/adapter-layers.ts';
import { isUnlisted } from '../models/families/largest-shapes.ts';
import { type AdapterLayer, type Kernel, kernelArea, type LayerWeights } from './adapter.ts';
import {
  excessOf,
  layerExtent,
  MAX_CHANGED_NUMBERS,
  MAX_LAYERS,
  MAX_UNLISTED_NUMBERS,
} from './layer-limits.ts';
import { type Fail, kernelOfWeights, type Parts, rankOf, shown, weightsOf } from './layer-weights.ts';
import type { AdapterName } from './schemes/names.ts';
import { type AdapterPart, partSuffix, splitName } from './schemes/suffixes.ts';
import { unknownName, unusableName } from './schemes/unusable-names.ts';

export interface CollectOptions {
  readonly architecture: Architecture;
  readonly parse: (name: string) => AdapterName | null;
  /** What multiplies the product. @param loraAlpha the stored number; `null` if none is */
  readonly scale: (module: AdapterModule, rank: number, loraAlpha: number | null) => number;
  /** What multiplies a change of which no factor is decomposed. Default 1: an alpha counts for nothing there. */
  readonly wholeScale?: (module: AdapterModule) => number;
}

export interface CollectedLayers {
  readonly layers: Map<string, AdapterLayer>;
  /** Entries that cannot be used, and what they are. */
  readonly unusable: { name: string; reason: string }[];
  /** Those of them whose names mean nothing. */
  readonly unknown: string[];
}

/**
 * Gather the layers of a file. What is of no layer, or of one that no LoRA can hold, is listed with the reason.
 * @throws {FormatError} on half pairs, doubled parts, mixed kinds, impossible shapes, rank 0, an alpha that is NaN, a
 *   magnitude whose factors are not there, and on more layers, or larger ones, than a model has
 */
export function collectAdapterLayers(
  file: string,
  tensors: Iterable<RawTensor>,
  options: CollectOptions,
): CollectedLayers {
  const byLayer = new Map<string, { module: AdapterModule; parts: Map<AdapterPart, RawTensor> }>();
  const unusable: { name: string; reason: string }[] = [];
  const unknown: string[] = [];
  for (const tensor of tensors) {
    // Some programs leave empty tensors behind.
    if (elementCount(tensor.shape) === 0 && splitName(tensor.name) === null) continue;
    const key = options.parse(tensor.name);
    if (key === null) {
      const reason = unusableName(tensor.name);
      if (reason === null) unknown.push(tensor.name);
      unusable.push({ name: tensor.name, reason: reason ?? unknownName(tensor.name) });
      continue;
    }
    const { component, layerName, part } = key;
    const id = adapterModuleId(key);
    const entry = byLayer.get(id) ?? { module: { component, layerName }, parts: new Map() };
    byLayer.set(id, entry);
    if (byLayer.size > MAX_LAYERS) {
      throw new FormatError(file, `expected at most ${MAX_LAYERS} layers, got more`, { tensor: tensor.name });
    }
    const other = entry.parts.get(part);
    if (other !== undefined) {
      throw new FormatError(
        file,
        `"${other.name}" and "${tensor.name}" are both ${partSuffix[part]} of ${id}`,
        {
          tensor: tensor.name,
        },
      );
    }
    entry.parts.set(part, tensor);
  }
  refuseLoneMagnitudes(file, unknown);
  const layers = new Map<string, AdapterLayer>();
  for (const [id, { module, parts }] of byLayer) {
    const layer = withoutWeights(parts) ?? assembleLayer(file, module, parts, options);
    // A magnitude changes the weight even so.
    const isNothing = typeof layer !== 'string' && layer.scale === 0 && layer.doraScale === null;
    if (typeof layer !== 'string' && !isNothing) layers.set(id, layer);
    else {
      const reason = typeof layer === 'string' ? layer : 'scaled by 0: the layer changes nothing';
      unusable.push(...[...parts.values()].map(({ name }) => ({ name, reason })));
    }
  }
  refuseExcess(file, layers);
  return { layers, unusable, unknown };
}

/** Why what the file has of a layer is no change of its weight; `null` if it is. */
function withoutWeights(parts: Parts): string | null {
  const others = [...parts.keys()].filter((part) => !SCALES.includes(part));
  if (others.length === 0) return 'alpha without factors';
  if (parts.get('diff')?.shape.length === 1) return 'a change of a vector, as a normalisation layer has it';
  return others.every((part) => part === 'biasDiff')
    ? 'a change of the bias alone, without one of the weight'
    : null;
}

/** Parts that multiply a layer's change. */
const SCALES: readonly AdapterPart[] = ['alpha', 'scale', 'scalar'];

/**
 * A magnitude says that its layer is DoRA. Left out from beside factors that are spelled otherwise, another change remains.
 * @throws {FormatError} if one is of no layer in the file, known or not
 */
function refuseLoneMagnitudes(file: string, unknown: readonly string[]): void {
  const parts = unknown.flatMap((name) => splitName(name) ?? []);
  const others = new Set(parts.flatMap(({ layer, part }) => (part === 'dora' ? [] : [layer])));
  const lone = unknown.find((name) => {
    const split = splitName(name);
    return split?.part === 'dora' && !others.has(split.layer);
  });
  if (lone !== undefined) {
    throw new FormatError(
      file,
      `${lone}: expected the factors of the same layer beside a magnitude (DoRA), got none; half converted?`,
      { tensor: lone },
    );
  }
}

/** @throws {FormatError} if all changes together have more numbers than a model */
function refuseExcess(file: string, layers: ReadonlyMap<string, AdapterLayer>): void {
  let numbers = 0;
  let most = MAX_CHANGED_NUMBERS;
  for (const layer of layers.values()) {
    const { shape } = layerExtent(layer);
    if (shape !== null) numbers += shape[0] * shape[1];
    if (isUnlisted(layer)) most = MAX_UNLISTED_NUMBERS;
  }
  if (numbers > most) {
    throw new FormatError(
      file,
      `expected changes of at most ${most} numbers in all, got ${numbers} in ${layers.size} layers`,
    );
  }
}

/** Axes of a matrix, and of a kernel over a picture; elsewhere also of one over a line, and over pictures in time. */
const LISTED_AXES: readonly number[] = [2, 4];
const UNLISTED_AXES: readonly number[] = [2, 3, 4, 5];

/** One layer of its parts. @throws {FormatError} as `collectAdapterLayers` */
export function assembleLayer(
  file: string,
  module: AdapterModule,
  parts: Parts,
  { architecture, scale, wholeScale = () => 1 }: Omit<CollectOptions, 'parse'>,
): AdapterLayer {
  const id = adapterModuleId(module);
  const fail = (message: string): FormatError => new FormatError(file, `${id}: ${message}`, { tensor: id });
  for (const [part, { dtype, shape, name }] of parts) {
    if (!isFloatDType(dtype) && part !== 'onInput' && !SCALES.includes(part)) {
      throw new FormatError(file, `${name}: expected floating point numbers, got ${dtype}`, { tensor: name });
    }
    if (elementCount(shape) === 0) {
      throw new FormatError(
        file,
        `${name}: expected a rank of at least 1 and no empty axis, got [${shape}]`,
        {
          tensor: name,
        },
      );
    }
  }
  const weights = weightsOf(parts, fail);
  const axes = isUnlisted(module) ? UNLISTED_AXES : LISTED_AXES;
  const rank = rankOf(weights, axes, fail);
  const excess = excessOf(module, weights);
  if (excess !== null) throw fail(excess);
  checkVectors(weights, parts, fail);
  const number = (part: AdapterPart): number | null => {
    const tensor = parts.get(part);
    return tensor === undefined ? null : readNumber(file, tensor);
  };
  const kernel = kernelOfWeights(weights) ?? flatKernel(architecture, module, weights);
  const { shape } = layerExtent(weights);
  if (kernel !== null && shape !== null && shape[1] % kernelArea(kernel) !== 0) {
    throw fail(`expected inputs times a kernel of ${kernel.join(' × ')}, got ${shape[1]} columns`);
  }
  // A whole LoKr has two factors and no rank.
  const own =
    rank !== null ? scale(module, rank, number('alpha')) : weights.kind === 'lokr' ? wholeScale(module) : 1;
  const info = {
    ...module,
    scale: (number('scale') ?? own) * (number('scalar') ?? 1),
    kernel,
    doraScale: magnitudeOf(parts.get('dora'), weights),
    biasDiff: parts.get('biasDiff') ?? null,
  };
  return weights.kind === 'lora' ? { ...info, ...weights, rank: rank! } : { ...info, ...weights, rank };
}

/** Biases and magnitudes have as many numbers as the change has outputs, or inputs. */
function checkVectors(weights: LayerWeights, parts: Parts, fail: Fail): void {
  const { shape } = layerExtent(weights);
  const biasDiff = parts.get('biasDiff');
  const dora = parts.get('dora');
  if (biasDiff !== undefined && (shape === null || elementCount(biasDiff.shape) !== shape[0])) {
    throw fail(`expected a difference of ${shape?.[0] ?? 'the'} biases, got ${shown(biasDiff)}`);
  }
  if (dora === undefined) return;
  if (shape === null) throw fail(`expected factors beside a magnitude, got ${shown(dora)}`);
  const count = elementCount(dora.shape);
  if (count !== shape[0] && shape[1] % count !== 0) {
    throw fail(`expected a magnitude per output or input of [${shape.join(', ')}], got ${shown(dora)}`);
  }
}

/** PEFT stores one number per output as [m], and for convolutions as [1, m, 1, 1], which LyCORIS reads as one per input. */
function magnitudeOf(tensor: RawTensor | undefined, weights: LayerWeights): RawTensor | null {
  if (tensor === undefined) return null;
  if (!tensor.name.includes('.lora_magnitude_vector') || weights.kind !== 'lora') return tensor;
  const shape = [elementCount(tensor.shape), ...weights.down.shape.slice(1).map(() => 1)];
  return { ...tensor, shape, strides: rowMajorStrides(shape) };
}

/** Flattened factors of convolutions are told by the layer's name alone. */
function flatKernel(architecture: Architecture, module: AdapterModule, weights: LayerWeights): Kernel | null {
  const flattened = weights.kind === 'loha' || weights.kind === 'lokr' || weights.kind === 'ia3';
  return flattened ? kernelOfLayer(architecture, module) : null;
}

/** @throws {FormatError} if a tensor is not one finite number */
function readNumber(file: string, tensor: RawTensor): number {
  const fail = (got: string): FormatError =>
    new FormatError(file, `${tensor.name}: expected one number, got ${got}`, { tensor: tensor.name });
  if (elementCount(tensor.shape) !== 1) throw fail(`shape [${tensor.shape.join(', ')}]`);
  const value = readFloat64(tensor)[0]!;
  if (!Number.isFinite(value)) throw fail(String(value));
  return value;
}
