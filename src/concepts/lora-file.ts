/**
 * Write merged factors as a LoRA that other tools load, in kohya's, diffusers', PEFT's or ED-LoRA's names. Whatever the
 * names, the file means ΔW = up · down: alpha equals the rank wherever one is stored.
 */

import type { AdapterWord } from '../adapters/adapter.ts';
import { modelspecMetadata, networkMetadata, sshsHashesOf } from '../adapters/metadata.ts';
import { readAdapter } from '../adapters/read.ts';
import { diffusersLoraKey } from '../adapters/schemes/diffusers-names.ts';
import { tokenOrderKey } from '../adapters/schemes/ed-lora.ts';
import { edLoraEmbeddingKey, edLoraKey } from '../adapters/schemes/ed-lora-names.ts';
import { kohyaKey, kohyaNames } from '../adapters/schemes/kohya-names.ts';
import { adapterConfig, adapterConfigName } from '../adapters/schemes/peft.ts';
import { peftKey } from '../adapters/schemes/peft-names.ts';
import { layerWiseHeader, readTextualInversion } from '../adapters/schemes/textual-inversion.ts';
import { differenceOf, readUnwritten, unreadable, unwrittenFile } from '../adapters/unwritten-file.ts';
import { NumericalError, ShapeError, UsageError } from '../errors.ts';
import { encodeFloat } from '../formats/dtype.ts';
import { float32Tensor, memoryTensor, type RawTensor, renamed } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { torchTensor, writeTorchZip } from '../formats/torch-writer.ts';
import * as path from '../io/platform/paths.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import { writeFolderAtomically } from '../io/replace-folder.ts';
import { type Component, type ModulePath, moduleId } from '../models/keys/module-path.ts';
import type { ConceptToken } from './concept.ts';
import { readConcept } from './concept-file.ts';

/** How the keys of a written LoRA are spelled. */
export type LoraNaming = 'kohya' | 'diffusers' | 'peft' | 'ed-lora';

export const loraNamings: readonly LoraNaming[] = ['kohya', 'diffusers', 'peft', 'ed-lora'];

/** One layer's merged factors. */
export interface MergedLayer extends ModulePath {
  /** [m, r], row-major. */
  readonly up: Float32Array;
  /** [r, n], for convolutions [r, n · kh · kw]. */
  readonly down: Float32Array;
  readonly rank: number;
  /** Kernel of a convolution, e.g. `[1, 1]` where the base weight is [m, n, 1, 1]; `null` for a linear layer. */
  readonly kernel: readonly [height: number, width: number] | null;
  /** ΔW = loraAlpha / rank · up · down. Default: the rank. It is multiplied into `up` when written. */
  readonly loraAlpha?: number;
}

export interface WriteLoraOptions {
  /** Default `kohya`. */
  readonly naming?: LoraNaming;
  /** Of the factors. Default F32. */
  readonly dtype?: 'F32' | 'F16' | 'BF16';
  /** Title in the header. Default: the file's name without its extension. */
  readonly title?: string;
  /** Titles of the inputs, for the header. */
  readonly mergedFrom?: readonly string[];
  /** Words and embeddings: stored by `edlora`, named in the header by the others' `modelspec.trigger_phrase`. */
  readonly tokens?: readonly ConceptToken[];
  /** Further header entries, e.g. the recipe. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Write a LoRA. An existing file is replaced once the new one is complete.
 *
 * - `kohya`, `diffusers`: one safetensors file.
 * - `edlora`: safetensors, or Mix-of-Show's own form if `target` ends in `.pth` (which has no header to describe it).
 * - `peft`: `target` is a folder; each network gets its adapter (weights and configuration) in `unet/`, `text_encoder/`.
 *
 * @throws {ShapeError} if factors do not fit their rank and kernel
 * @throws {NumericalError} if a number is not finite, or too large for the dtype
 * @throws {UsageError} if two layers are the same
 * @throws {FormatError} if the file would not be read again as these layers and words
 */
export async function writeLora(
  target: string,
  layers: Iterable<MergedLayer>,
  options: WriteLoraOptions = {},
): Promise<void> {
  const { naming = 'kohya', dtype = 'F32', tokens = [] } = options;
  const factors = new Map<string, Factors>();
  for (const layer of layers) {
    const id = moduleId(layer);
    if (factors.has(id)) throw new UsageError(`${target}: layer ${id} given twice`);
    factors.set(id, encodeLayer(layer, dtype));
  }
  const all = [...factors.values()];
  const description = {
    title: options.title ?? path.basename(target).replace(/\.(safetensors|pth)$/, ''),
    ranks: all.map(({ rank }) => rank),
    mergedFrom: options.mergedFrom ?? [],
    triggerWords: tokens.map(({ word }) => word),
  };
  const described = { ...modelspecMetadata(description), format: 'pt', ...options.metadata };
  switch (naming) {
    case 'kohya':
      return writeKohya(target, all, networkMetadata(description), described);
    case 'diffusers': {
      const tensors = all.flatMap((layer) => pair(layer, (part) => diffusersLoraKey(layer, part)!));
      refuseUnreadable(target, naming, all, [], unwrittenFile(target, tensors, described));
      return writeSafetensors(target, tensors, described);
    }
    case 'peft':
      return writePeft(target, all, described);
    case 'ed-lora':
      return target.endsWith('.pth')
        ? writeEdLoraTorch(target, all, tokens)
        : writeEdLoraFlat(target, all, tokens, described);
  }
}

interface Factors extends ModulePath {
  readonly up: RawTensor;
  readonly down: RawTensor;
  readonly rank: number;
}

/** Shape, scale and round one layer's factors. Names come later. */
function encodeLayer(layer: MergedLayer, dtype: 'F32' | 'F16' | 'BF16'): Factors {
  const { component, layerName, rank, kernel, loraAlpha = layer.rank } = layer;
  const id = moduleId(layer);
  const area = kernel === null ? 1 : kernel[0] * kernel[1];
  const m = layer.up.length / rank;
  const n = layer.down.length / (rank * area);
  if (![rank, m, n].every((size) => Number.isInteger(size) && size > 0)) {
    throw new ShapeError(
      `${id}: expected up [m, ${rank}] and down [${rank}, n${kernel === null ? '' : ` · ${kernel.join(' · ')}`}], got ${layer.up.length} and ${layer.down.length} numbers`,
    );
  }
  const scale = loraAlpha / rank;
  const up = scale === 1 ? layer.up : layer.up.map((value) => value * scale);
  const encode = (shape: readonly number[], values: Float32Array): RawTensor => {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    // Largest float16 before rounding reaches infinity.
    if (!Number.isFinite(largest) || (dtype === 'F16' && largest >= 65520)) {
      throw new NumericalError(`expected finite numbers that ${dtype} can hold, got ${largest}`, {
        layer: id,
        value: largest,
      });
    }
    return memoryTensor(id, dtype, shape, encodeFloat(values, dtype));
  };
  return {
    component,
    layerName,
    rank,
    up: encode(kernel === null ? [m, rank] : [m, rank, 1, 1], up),
    down: encode(kernel === null ? [rank, n] : [rank, n, ...kernel], layer.down),
  };
}

function pair({ up, down }: Factors, key: (part: 'up' | 'down') => string): RawTensor[] {
  return [renamed(down, key('down')), renamed(up, key('up'))];
}

/** @throws {FormatError} unless the reader finds these layers and words, and no others */
function refuseUnreadable(
  target: string,
  naming: LoraNaming,
  layers: readonly ModulePath[],
  tokens: readonly ConceptToken[],
  file: TensorFile,
): void {
  if (layers.length === 0 && tokens.length === 0) return;
  const concept = readUnwritten(target, naming, () => readConcept(file, { modules: layers }));
  const reason =
    differenceOf('layer', layers.map(moduleId), [...concept.layers.keys()]) ??
    differenceOf(
      'word',
      tokens.map(({ word }) => word),
      concept.tokens.map(({ word }) => word),
    );
  if (reason !== null) throw unreadable(target, naming, reason);
}

async function writeKohya(
  file: string,
  layers: readonly Factors[],
  network: Record<string, string>,
  described: Record<string, string>,
): Promise<void> {
  kohyaNames(file, layers);
  const tensors = layers.flatMap((layer) => [
    ...pair(layer, (part) => kohyaKey(layer, part)),
    // Always float32: bfloat16 would round ranks above 256.
    float32Tensor(kohyaKey(layer, 'alpha'), [], Float32Array.of(layer.rank)),
  ]);
  const { modelHash, legacyHash } = await sshsHashesOf(tensors, network);
  const header = {
    ...network,
    ...described,
    'modelspec.hash_sha256': `0x${modelHash}`,
    sshs_model_hash: modelHash,
    sshs_legacy_hash: legacyHash,
  };
  refuseUnreadable(file, 'kohya', layers, [], unwrittenFile(file, tensors, header));
  await writeSafetensors(file, tensors, header);
}

async function writePeft(
  folder: string,
  layers: readonly Factors[],
  described: Record<string, string>,
): Promise<void> {
  const parts = (['unet', 'text_encoder'] as const).flatMap((component) => {
    const own = layers.filter((layer) => layer.component === component);
    if (own.length === 0) return [];
    const file = path.join(folder, component, 'adapter_model.safetensors');
    const tensors = own.flatMap((layer) => pair(layer, (part) => peftKey(layer, part)));
    // Alpha is the rank in every layer, so that PEFT's scale is 1.
    const config = adapterConfig(own.map((layer) => ({ ...layer, scale: 1 })));
    const unwritten = unwrittenFile(file, tensors, described);
    const { layers: found } = readUnwritten(file, 'peft', () =>
      readAdapter(unwritten, { component, config }),
    );
    const reason = differenceOf('layer', own.map(moduleId), [...found.keys()]);
    if (reason !== null) throw unreadable(file, 'peft', reason);
    return [{ component, tensors, config }];
  });
  await writeFolderAtomically(folder, async (temporary) => {
    for (const { component, tensors, config } of parts) {
      const place = path.join(temporary, component);
      await makeFolder(place);
      await writeSafetensors(path.join(place, 'adapter_model.safetensors'), tensors, described);
      const text = `${JSON.stringify(config, null, 2)}\n`;
      await writeFileAtomically(path.join(place, adapterConfigName), [text]);
    }
  });
}

async function writeEdLoraFlat(
  file: string,
  layers: readonly Factors[],
  tokens: readonly ConceptToken[],
  described: Record<string, string>,
): Promise<void> {
  const tensors = flatTensors(layers, tokens);
  const header = { ...described, [tokenOrderKey]: JSON.stringify(tokens.map(({ word }) => word)) };
  refuseUnreadable(file, 'ed-lora', layers, tokens, unwrittenFile(file, tensors, header));
  await writeSafetensors(file, tensors, header);
}

/** What an ED-LoRA file holds, its dictionaries joined by dots. */
function flatTensors(layers: readonly Factors[], tokens: readonly ConceptToken[]): RawTensor[] {
  return [
    ...tokens.map(({ word, embedding }) => renamed(embedding, edLoraEmbeddingKey(word))),
    ...layers.flatMap((layer) => pair(layer, (part) => `${layer.component}.${edLoraKey(layer, part)}`)),
  ];
}

async function writeEdLoraTorch(
  file: string,
  layers: readonly Factors[],
  tokens: readonly ConceptToken[],
): Promise<void> {
  refuseUnreadable(file, 'ed-lora', layers, tokens, unwrittenFile(file, flatTensors(layers, tokens)));
  const dictionary = (component: Component) =>
    new Map(
      layers
        .filter((layer) => layer.component === component)
        .flatMap((layer) => pair(layer, (part) => edLoraKey(layer, part)))
        .map((tensor) => [tensor.name, torchTensor(tensor)]),
    );
  const params = new Map([
    ['new_concept_embedding', new Map(tokens.map(({ word, embedding }) => [word, torchTensor(embedding)]))],
    ['text_encoder', dictionary('text_encoder')],
    ['unet', dictionary('unet')],
  ]);
  await writeTorchZip(file, new Map([['params', params]]));
}

/**
 * Write embeddings alone: one tensor [L, D] per word, under the word.
 * @throws {UsageError} if two words are the same
 * @throws {FormatError} if the file would not be read again as these words
 */
export async function writeEmbeddings(
  file: string,
  tokens: Iterable<ConceptToken>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const words = [...tokens].map(({ word, embedding }) => {
    const rows: AdapterWord['rows'] = embedding.shape[0]! > 1 ? 'layers' : 'tokens';
    return { word, rows, embedding };
  });
  const tensors = words.map(({ word, embedding }) => renamed(embedding, word));
  const header = { format: 'pt', ...metadata, ...layerWiseHeader(words) };
  if (tensors.length > 0) {
    const unwritten = unwrittenFile(file, tensors, header);
    const read = readUnwritten(file, 'embeddings', () => readTextualInversion(unwritten)) ?? [];
    const named = ({ word, rows }: Pick<AdapterWord, 'word' | 'rows'>): string => `${word} (${rows})`;
    const reason = differenceOf('word', words.map(named), read.map(named));
    if (reason !== null) throw unreadable(file, 'embeddings', reason);
  }
  await writeSafetensors(file, tensors, header);
}
