/** Several adapters as one: layer by layer, whatever their schemes, ranks, alphas and dtypes. */

import type { Adapter, AdapterLayer, AdapterModule, AdapterWord, LoraLayer } from '../adapters/adapter.ts';
import { type BaseWeights, layerDeltaSteps, needsBase } from '../adapters/delta.ts';
import { encodeLayer, type FactorDType } from '../adapters/encode-layer.ts';
import { spelledAlike } from '../adapters/schemes/own-layers.ts';
import type { OutputAdapter, UnsupportedEntry } from '../adapters/write.ts';
import { ShapeError, UsageError } from '../errors.ts';
import * as path from '../io/platform/paths.ts';
import { sha256Of } from '../io/platform/sha256.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { multiplySteps } from '../linalg/products.ts';
import { readsPrompt } from '../models/families/family.ts';
import { Pace, type Steps } from '../pace.ts';
import type { SubjectProgress } from '../progress.ts';
import { withDefaults } from '../settings.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { type BlockWeights, blockFactor } from './block-weights.ts';
import { commonArchitecture } from './common-family.ts';
import { concatenate } from './concatenation.ts';
import {
  checkMergeSettings,
  MERGE_DEFAULTS,
  type MergeContext,
  type MergeSettings,
  type MergeTerm,
} from './method.ts';
import { type MergeMethodName, mergeMethod } from './methods/index.ts';
import { refuseLargeResult } from './result-size.ts';

export interface MergeInput {
  readonly adapter: Adapter;
  /** Multiplies every change. May be negative. Default 1. */
  readonly strength?: number;
  /** In place of `strength` for text encoders. */
  readonly textEncoderStrength?: number;
  /** Factors per block on top; default none. */
  readonly blockWeights?: BlockWeights;
}

export interface MergeOptions extends Partial<MergeSettings> {
  /** Default `cat`. */
  readonly method?: MergeMethodName;
  /** Of the written factors. Default F32. */
  readonly dtype?: FactorDType;
  /** For methods that draw at random. Default 0. */
  readonly seed?: number;
  /** Needed for layers that are changes only against their base ((IA)³, DoRA, Custom Diffusion). */
  readonly base?: BaseWeights;
  /** Large products; default plain loops. */
  readonly engine?: MatmulEngine;
  /** Called after each layer. */
  readonly onProgress?: (progress: SubjectProgress) => void;
  /** Its reason is thrown once it is aborted. */
  readonly signal?: AbortSignal;
}

/** A word that was renamed because another input has it too. */
export interface RenamedWord {
  readonly path: string;
  readonly from: string;
  readonly to: string;
}

export interface Merge {
  readonly output: OutputAdapter;
  readonly renamed: readonly RenamedWord[];
}

/** Entries of the inputs that no merge can use. */
export function unusableOf(adapters: readonly Adapter[]): UnsupportedEntry[] {
  return adapters.flatMap(({ path: own, unusable }) =>
    unusable.map(({ name, reason }) => ({ name: `${path.basename(own)}: ${name}`, reason })),
  );
}

/** Strength of an input in one layer, block weights inside. */
export function layerStrength(
  { adapter, strength = 1, textEncoderStrength = strength, blockWeights }: MergeInput,
  module: AdapterModule,
): number {
  const own = readsPrompt(module.component) ? textEncoderStrength : strength;
  return blockWeights === undefined ? own : own * blockFactor(blockWeights, adapter.architecture, module);
}

/** The layers of all inputs, each with the terms that change it. Nothing is read yet. */
export function layersByModule(
  inputs: readonly MergeInput[],
): Map<string, { readonly layer: AdapterLayer; readonly input: MergeInput }[]> {
  const byLayer = new Map<string, { layer: AdapterLayer; input: MergeInput }[]>();
  for (const input of inputs) {
    for (const [id, layer] of input.adapter.layers) {
      byLayer.set(id, [...(byLayer.get(id) ?? []), { layer, input }]);
    }
  }
  return byLayer;
}

/**
 * Merge.
 * @throws {MismatchError} on mixed architectures, or a base that is needed and missing
 * @throws {ShapeError} if the changes of a layer differ in shape, naming the layer
 * @throws {UsageError} on settings out of range, ranks that the method cannot take, strengths that are all 0, or a result
 *   that would not fit into memory
 * @throws {FormatError} if a number is not finite, naming the tensor
 */
export async function mergeAdapters(
  inputs: readonly MergeInput[],
  options: MergeOptions = {},
): Promise<Merge> {
  const { method: name = 'cat', dtype = 'F32', seed = 0, base, onProgress, signal } = options;
  const architecture = commonArchitecture(inputs.map(({ adapter }) => adapter));
  const settings = withDefaults(MERGE_DEFAULTS, {
    rank: options.rank,
    density: options.density,
    majoritySign: options.majoritySign,
  });
  checkMergeSettings(settings);
  for (const { adapter, strength = 1, textEncoderStrength = strength } of inputs) {
    for (const value of [strength, textEncoderStrength]) {
      if (!Number.isFinite(value))
        throw new UsageError(`${adapter.path}: strength: expected a number, got ${value}`);
    }
  }
  const method = mergeMethod(name);
  const byLayer = layersByModule(inputs);
  const added = ['cat', 'svd', 'knots', 'null-space'].includes(name);
  refuseLargeResult(
    'merge',
    [...byLayer.values()].map((parts) => ({
      parts: parts.map(({ layer }) => layer),
      added,
      rank: name === 'cat' ? null : settings.rank,
    })),
    dtype,
  );
  const pace = new Pace(signal);
  const alike = spelledAlike(inputs[0]!.adapter.layers.values());
  const layers: LoraLayer[] = [];
  let done = 0;
  for (const [id, parts] of byLayer) {
    done++;
    await pace.turn();
    const active = parts
      .map(({ layer, input }) => ({ layer, strength: layerStrength(input, layer) }))
      .filter(({ strength }) => strength !== 0);
    if (active.length === 0) continue;
    const module = alike(active[0]!.layer);
    const kernel = active.map(({ layer }) => layer.kernel).find((own) => own !== null) ?? null;
    const direct = name === 'cat' ? concatenate(module, kernel, active, dtype) : null;
    if (direct !== null) {
      layers.push(direct);
      onProgress?.({ done, total: byLayer.size, subject: id });
      continue;
    }
    const terms: MergeTerm[] = [];
    let bias: Float64Array | null = null;
    for (const { layer, strength } of active) {
      const delta = await pace.run(layerDeltaSteps(layer, needsBase(layer) ? base?.(layer) : undefined));
      terms.push({ up: delta.up, down: delta.down, scale: delta.scale, strength });
      if (delta.bias !== null) {
        bias ??= new Float64Array(delta.bias.length);
        for (let i = 0; i < bias.length; i++) bias[i]! += strength * delta.bias[i]!;
      }
    }
    refuseUnequalShapes(id, terms);
    const merged = await method.merge(
      terms,
      layerContext(id, seed, settings, { engine: options.engine, pace }),
    );
    const encoded = encodeLayer(module, kernel, merged, dtype, bias);
    layers.push(encoded);
    onProgress?.({ done, total: byLayer.size, subject: id });
  }
  if (layers.length === 0 && byLayer.size > 0) {
    throw new UsageError('merge: every strength is 0, nothing would be left; give at least one other number');
  }
  const { words, renamed } = mergeWords(inputs.map(({ adapter }) => adapter));
  const titles = inputs.map(({ adapter }) => path.parse(adapter.path).name);
  return {
    output: { architecture, layers, words, title: titles.join(' + '), mergedFrom: titles },
    renamed,
  };
}

/** @throws {ShapeError} naming the layer and both shapes */
export function refuseUnequalShapes(id: string, terms: readonly MergeTerm[]): void {
  const { up, down } = terms[0]!;
  for (const term of terms) {
    if (term.up.rows !== up.rows || term.down.cols !== down.cols) {
      throw new ShapeError(
        `${id}: expected changes of one shape, got [${up.rows}, ${down.cols}] and [${term.up.rows}, ${term.down.cols}]; trained on different bases?`,
      );
    }
  }
}

/** A method's context for one layer: random numbers depend on seed and layer, not on the order of layers. */
export function layerContext(
  id: string,
  seed: number,
  settings: MergeSettings,
  { engine, pace = new Pace() }: { readonly engine?: MatmulEngine | undefined; readonly pace?: Pace } = {},
): MergeContext {
  // The first four bytes, the lowest in front.
  const digits = sha256Of(`${seed}:${id}`).slice(0, 8).match(/../g)!;
  const generator = new TorchGenerator(Number.parseInt(digits.reverse().join(''), 16));
  return {
    ...settings,
    engine: engine ?? ((a, b) => pace.run(multiplySteps(a, b))),
    pace,
    gaussians: (count) => generator.randnFloat64Steps(count),
    keepMask: (count, density) => drawnMask(generator, count, density),
  };
}

/** Numbers drawn between two steps. */
const DRAWN = 1 << 16;

function* drawnMask(generator: TorchGenerator, count: number, density: number): Steps<Uint8Array> {
  const mask = new Uint8Array(count);
  for (let begin = 0; begin < count; begin += DRAWN) {
    const drawn = generator.randFloat64(Math.min(DRAWN, count - begin));
    for (let i = 0; i < drawn.length; i++) mask[begin + i] = drawn[i]! < density ? 1 : 0;
    yield;
  }
  return mask;
}

/** All words, those that appear again under a name of their own: `<w>` becomes `<w-2>`. */
export function mergeWords(adapters: readonly Adapter[]): { words: AdapterWord[]; renamed: RenamedWord[] } {
  const taken = new Set<string>();
  const words: AdapterWord[] = [];
  const renamed: RenamedWord[] = [];
  for (const adapter of adapters) {
    const own = new Map<string, string>();
    for (const { word } of adapter.words) {
      if (own.has(word)) continue;
      let name = word;
      for (let i = 2; taken.has(name); i++)
        name = word.endsWith('>') ? `${word.slice(0, -1)}-${i}>` : `${word}-${i}`;
      own.set(word, name);
      if (name !== word) renamed.push({ path: adapter.path, from: word, to: name });
    }
    for (const name of own.values()) taken.add(name);
    for (const entry of adapter.words) words.push({ ...entry, word: own.get(entry.word)! });
  }
  return { words, renamed };
}
