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
import {
  type AdapterLayer,
  type FullFactor,
  type Kernel,
  kernelArea,
  type LayerWeights,
  type PairFactor,
} from './adapter.ts';
import {
  excessOf,
  layerExtent,
  MAX_CHANGED_NUMBERS,
  MAX_LAYERS,
  MAX_UNLISTED_NUMBERS,
} from './layer-limits.ts';
import type { AdapterName } from './schemes/names.ts';
import { type AdapterPart, partSuffix, splitName } from './schemes/suffixes.ts';
import { unknownName, unusableName } from './schemes/unusable-names.ts';

export type Parts = ReadonlyMap<AdapterPart, RawTensor>;

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

type Fail = (message: string) => FormatError;

const kindParts: Readonly<Record<'lora' | 'loha' | 'lokr' | 'ia3' | 'diff', readonly AdapterPart[]>> = {
  lora: ['up', 'down', 'mid'],
  loha: ['w1a', 'w1b', 'w2a', 'w2b', 't1', 't2'],
  lokr: ['k1', 'k1a', 'k1b', 'k2', 'k2a', 'k2b', 'k1t', 'k2t'],
  ia3: ['ia3', 'onInput'],
  diff: ['diff'],
};

function weightsOf(parts: Parts, fail: Fail): LayerWeights {
  const kinds = (Object.keys(kindParts) as (keyof typeof kindParts)[]).filter((kind) =>
    kindParts[kind].some((part) => parts.has(part)),
  );
  if (kinds.length === 0) {
    throw fail('a magnitude (DoRA) without factors; truncated or half converted?');
  }
  if (kinds.length > 1) throw fail(`parts of ${kinds.join(' and ')} in one layer`);
  const need = (part: AdapterPart): RawTensor => {
    const tensor = parts.get(part);
    if (tensor === undefined) {
      const have = [...parts.keys()].filter((other) => kindParts[kinds[0]!].includes(other));
      throw fail(
        `${have.map((other) => partSuffix[other]).join(', ')} without ${partSuffix[part]}; truncated or hand-made file?`,
      );
    }
    return tensor;
  };
  const pair = (a: AdapterPart, b: AdapterPart, core: AdapterPart): PairFactor => ({
    a: need(a),
    b: need(b),
    core: parts.get(core) ?? null,
  });
  const factor = (
    full: AdapterPart,
    a: AdapterPart,
    b: AdapterPart,
    core: AdapterPart,
  ): PairFactor | FullFactor => {
    const whole = parts.get(full);
    if (whole === undefined) return pair(a, b, core);
    if (parts.has(a) || parts.has(b)) throw fail(`${partSuffix[full]} both whole and decomposed`);
    return { full: whole };
  };
  switch (kinds[0]!) {
    case 'lora':
      return { kind: 'lora', up: need('up'), down: need('down'), mid: parts.get('mid') ?? null };
    case 'loha':
      return { kind: 'loha', w1: pair('w1a', 'w1b', 't1'), w2: pair('w2a', 'w2b', 't2') };
    case 'lokr':
      return {
        kind: 'lokr',
        w1: factor('k1', 'k1a', 'k1b', 'k1t'),
        w2: factor('k2', 'k2a', 'k2b', 'k2t'),
      };
    case 'ia3':
      return { kind: 'ia3', weight: need('ia3'), onInput: readSwitch(need('onInput'), fail) };
    case 'diff':
      return { kind: 'diff', diff: need('diff') };
  }
}

/** Axes of a matrix, and of a kernel over a picture; elsewhere also of one over a line, and over pictures in time. */
const LISTED_AXES: readonly number[] = [2, 4];
const UNLISTED_AXES: readonly number[] = [2, 3, 4, 5];

const shown = ({ name, shape }: RawTensor): string => `${name} [${shape.join(', ')}]`;

/** r, and the check that all factors agree on it. `null` where nothing is decomposed. */
function rankOf(weights: LayerWeights, axes: readonly number[], fail: Fail): number | null {
  switch (weights.kind) {
    case 'lora': {
      const { up, down, mid } = weights;
      const rank = down.shape[0];
      if (rank === undefined || !axes.includes(down.shape.length)) {
        throw fail(`expected a down factor [rank, inputs, …], got ${shown(down)}`);
      }
      const flat = axes.includes(up.shape.length) && up.shape.slice(2).every((size) => size === 1);
      if (!flat || up.shape[1] !== (mid === null ? rank : mid.shape[0])) {
        throw fail(`expected up [outputs, ${rank}] to fit ${shown(down)}, got ${shown(up)}`);
      }
      if (
        mid !== null &&
        (mid.shape.length < 3 || !axes.includes(mid.shape.length) || mid.shape[1] !== rank)
      ) {
        throw fail(`expected lora_mid [${up.shape[1]}, ${rank}, height, width], got ${shown(mid)}`);
      }
      return rank;
    }
    case 'loha':
      return pairRank(weights.w1, fail) === pairRank(weights.w2, fail)
        ? pairRank(weights.w1, fail)
        : failing(
            fail(
              `the two products have ranks ${pairRank(weights.w1, fail)} and ${pairRank(weights.w2, fail)}`,
            ),
          );
    case 'lokr': {
      const { w1, w2 } = weights;
      for (const factor of [w1, w2]) {
        if ('full' in factor) requireAxes(factor.full, axes, fail);
        else pairRank(factor, fail);
      }
      // LyCORIS divides by the rank of the factor that is decomposed; both have the same where both are.
      if (!('full' in w2)) return pairRank(w2, fail);
      return 'full' in w1 ? null : pairRank(w1, fail);
    }
    case 'diff':
      requireAxes(weights.diff, axes, fail);
      return null;
    default:
      return null;
  }
}

/** A whole matrix, or a kernel. */
function requireAxes(tensor: RawTensor, axes: readonly number[], fail: Fail): void {
  if (!axes.includes(tensor.shape.length)) {
    throw fail(`expected [outputs, inputs] or [outputs, inputs, height, width], got ${shown(tensor)}`);
  }
}

function failing(error: FormatError): never {
  throw error;
}

function pairRank({ a, b, core }: PairFactor, fail: Fail): number {
  if (a.shape.length !== 2 || b.shape.length !== 2)
    throw fail(`expected matrices, got ${shown(a)}, ${shown(b)}`);
  const [rank, other] = core === null ? [a.shape[1]!, b.shape[0]!] : [a.shape[0]!, b.shape[0]!];
  if (core === null && rank !== other) throw fail(`${shown(a)} does not fit ${shown(b)}`);
  if (core !== null && (core.shape.length !== 4 || core.shape[0] !== rank || core.shape[1] !== other)) {
    throw fail(`expected a core [${rank}, ${other}, height, width], got ${shown(core)}`);
  }
  return other;
}

/** The kernel where the tensors' own axes tell it. */
function kernelOfWeights(weights: LayerWeights): Kernel | null {
  const ofAxes = (shape: readonly number[]): Kernel | null => (shape.length > 2 ? shape.slice(2) : null);
  switch (weights.kind) {
    case 'lora':
      return ofAxes((weights.mid ?? weights.down).shape);
    case 'loha':
      return weights.w1.core === null ? null : ofAxes(weights.w1.core.shape);
    case 'lokr':
      return 'full' in weights.w2
        ? ofAxes(weights.w2.full.shape)
        : weights.w2.core === null
          ? null
          : ofAxes(weights.w2.core.shape);
    case 'diff':
      return ofAxes(weights.diff.shape);
    case 'weight':
      return ofAxes(weights.weight.shape);
    case 'ia3':
      return null;
  }
}

/** Flattened factors of convolutions are told by the layer's name alone. */
function flatKernel(architecture: Architecture, module: AdapterModule, weights: LayerWeights): Kernel | null {
  const flattened = weights.kind === 'loha' || weights.kind === 'lokr' || weights.kind === 'ia3';
  return flattened ? kernelOfLayer(architecture, module) : null;
}

function readSwitch(tensor: RawTensor, fail: Fail): boolean {
  if (elementCount(tensor.shape) !== 1) throw fail(`expected one number, got ${shown(tensor)}`);
  return readFloat64(tensor)[0] !== 0;
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
