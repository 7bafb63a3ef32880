/** Writing adapters: what a scheme cannot hold is listed first and needs the user's word; then files, whole or not at all. */

import path from 'node:path';
import { UsageError } from '../errors.ts';
import { float32Tensor, memoryTensor, type RawTensor, renamed } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../formats/torch-writer.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import { writeFolderAtomically } from '../io/replace-folder.ts';
import { checkFileTarget, checkFolderTarget, type TargetRules } from '../io/targets.ts';
import { type AdapterModule, adapterModuleId, componentsOf } from '../models/keys/sd-modules.ts';
import { Pace } from '../pace.ts';
import type {
  Adapter,
  AdapterComponent,
  AdapterLayer,
  AdapterWord,
  Architecture,
  LoraLayer,
} from './adapter.ts';
import { foldScale, loraAlphaOf } from './encode-layer.ts';
import { modelspecMetadata, networkMetadata, sshsHashesOf } from './metadata.ts';
import { refuseUnreadable } from './read-back.ts';
import { positionalLayers } from './schemes/cloneofsimo.ts';
import { tokenOrderKey } from './schemes/ed-lora.ts';
import { edLoraEmbeddingKey } from './schemes/ed-lora-names.ts';
import { factorTensors, type LayerFormat, partTensors, schemes } from './schemes/index.ts';
import { partSuffix } from './schemes/names.ts';
import { adapterConfigName } from './schemes/peft.ts';
import { unwrittenFile } from './unwritten-file.ts';
import { bundledTensors, isTorchName, layerWiseWords, spreadTokens } from './words.ts';

/** What is to be written. */
export interface OutputAdapter {
  readonly architecture: Architecture;
  readonly layers: readonly AdapterLayer[];
  readonly words: readonly AdapterWord[];
  /** Shown by model browsers. */
  readonly title: string;
  readonly mergedFrom?: readonly string[];
  /** Further header entries: recipe, the inputs' own metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Something that a target cannot hold. */
export interface Unheld {
  readonly name: string;
  readonly reason: string;
}

/** What would be lost by writing in a scheme. */
export function unheldBy(format: LayerFormat, { layers, words, architecture }: OutputAdapter): Unheld[] {
  const scheme = schemes[format];
  const unheld: Unheld[] = [];
  for (const layer of layers) {
    const name = adapterModuleId(layer);
    const reason = scheme.refuses(layer, architecture);
    if (reason !== null) unheld.push({ name, reason });
    else if (layer.biasDiff !== null && !scheme.anyKind) {
      unheld.push({ name: `${name} (bias)`, reason: `${format} has no place for a difference of biases` });
    }
  }
  for (const { word, rows, encoder } of words) {
    if (scheme.words === 'none') unheld.push({ name: word, reason: `${format} files hold no embeddings` });
    else if (scheme.words === 'tokens' && rows === 'layers') {
      unheld.push({
        name: word,
        reason: 'one vector per cross-attention layer; the scheme holds one per token',
      });
    } else if (encoder === 'text_encoder_2' && (format === 'ed-lora' || format === 'cloneofsimo')) {
      unheld.push({ name: word, reason: 'a vector of the second text encoder' });
    }
  }
  return unheld;
}

/** @throws {UsageError} listing what would be lost, unless `drop` */
export function refuseLoss(target: string, unheld: readonly Unheld[], drop: boolean): void {
  if (drop || unheld.length === 0) return;
  const listed = unheld.slice(0, 20).map(({ name, reason }) => `\n  ${name}: ${reason}`);
  if (unheld.length > listed.length) listed.push(`\n  … and ${unheld.length - listed.length} more`);
  throw new UsageError(
    `${target}: ${unheld.length} ${unheld.length === 1 ? 'entry' : 'entries'} cannot be held; \`drop\` leaves them out:${listed.join('')}`,
  );
}

/**
 * Before any work: the target is no input, and nothing there goes without the caller's word.
 * @param format `peft` is written as a folder, everything else as a file
 * @throws {UsageError} as `checkFileTarget` and `checkFolderTarget`
 */
export function checkAdapterTarget(target: string, format: string, rules: TargetRules): void {
  if (format === 'peft') checkFolderTarget(target, rules);
  else checkFileTarget(target, rules);
}

/** Files of adapters, and the folders that hold them: inputs that no target may be. */
export function filesOfAdapters(adapters: readonly Adapter[]): string[] {
  return adapters.flatMap(({ path: own, files }) => [own, ...files]);
}

/**
 * Write an adapter in a scheme. Call `refuseLoss` first: what the scheme does not hold is left out here.
 * @param target a file; for `peft` a folder
 * @param pace   between layers and tensors; where it ends, nothing is left behind
 * @throws {FormatError} if the file would not be read again as what it is written for
 * @throws {UsageError} if the scheme holds nothing of it, a layer is given twice, is not yet plain LoRA where the scheme needs it, or a numbered scheme
 *   lacks some of its layers; {EdloraError} if the disk is full or read-only
 */
export async function writeAdapter(
  target: string,
  format: LayerFormat,
  adapter: OutputAdapter,
  pace: Pace = new Pace(),
): Promise<void> {
  const { architecture } = adapter;
  const scheme = schemes[format];
  const ids = new Set<string>();
  const layers = adapter.layers.filter((layer) => {
    const id = adapterModuleId(layer);
    if (ids.has(id)) throw new UsageError(`${target}: layer ${id} given twice`);
    ids.add(id);
    return scheme.refuses(layer, architecture) === null;
  });
  const words = adapter.words.filter(
    ({ rows, encoder }) =>
      (scheme.words === 'layers' || (scheme.words === 'tokens' && rows === 'tokens')) &&
      (encoder === 'text_encoder' || (format !== 'ed-lora' && format !== 'cloneofsimo')),
  );
  if (layers.length === 0 && words.length === 0) {
    throw new UsageError(`${target}: nothing is left to write: ${format} holds none of it`);
  }
  const output = { ...adapter, layers, words };
  if (scheme.anyKind) return writeKohya(target, format, output, lycorisTensors(output), pace);
  const plain = layers.map((layer) => plainLora(target, layer));
  const stored: LoraLayer[] = [];
  for (const layer of plain) {
    stored.push(scheme.storesAlpha ? layer : foldScale(layer));
    await pace.turn();
  }
  switch (format) {
    case 'kohya':
    case 'kohya-ldm':
      return writeKohya(
        target,
        format,
        output,
        stored.flatMap((layer) => [
          ...factorTensors(layer, scheme.key!, architecture),
          alphaTensor(scheme.key!(layer, 'up', architecture), loraAlphaOf(layer)),
        ]),
        pace,
      );
    case 'peft':
      return writePeft(target, stored, output, pace);
    case 'ed-lora':
      return writeEdLora(target, stored, output, pace);
    case 'cloneofsimo':
      return writePositional(target, stored, output, pace);
    default: {
      const tensors = stored.flatMap((layer) => factorTensors(layer, scheme.key!, architecture));
      const metadata = { ...describe(output), format: 'pt' };
      refuseUnreadable(target, format, unwrittenFile(target, tensors, metadata), { layers: stored, words });
      return writeSafetensors(target, tensors, metadata, pace);
    }
  }
}

/** @throws {UsageError} if it is not one */
function plainLora(target: string, layer: AdapterLayer): LoraLayer {
  if (layer.kind !== 'lora' || layer.mid !== null || layer.doraScale !== null) {
    throw new UsageError(`internal: ${target}: ${adapterModuleId(layer)} is not plain LoRA yet`);
  }
  return layer;
}

function ranksOf(layers: readonly AdapterLayer[]): number[] {
  return layers.flatMap(({ rank }) => (rank === null ? [] : [rank]));
}

function describe({
  title,
  mergedFrom,
  words,
  layers,
  architecture,
  metadata,
}: OutputAdapter): Record<string, string> {
  const described = modelspecMetadata({
    title,
    ranks: ranksOf(layers),
    mergedFrom,
    triggerWords: words.map(({ word }) => word),
  });
  if (architecture === 'sdxl') {
    described['modelspec.architecture'] = 'stable-diffusion-xl-v1-base/lora';
    described['modelspec.implementation'] = 'https://github.com/Stability-AI/generative-models';
  }
  return { ...described, ...metadata };
}

/** Always float32: bfloat16 would round ranks above 256. */
function alphaTensor(upKey: string, loraAlpha: number): RawTensor {
  return float32Tensor(upKey.replace(partSuffix.up, partSuffix.alpha), [], Float32Array.of(loraAlpha));
}

function lycorisTensors({ layers, architecture }: OutputAdapter): RawTensor[] {
  const { key } = schemes.lycoris;
  return layers.flatMap((layer) => {
    const stem = key!(layer, 'up', architecture).slice(0, -partSuffix.up.length);
    const tensors = partTensors(layer).map(([suffix, tensor]) => renamed(tensor, stem + suffix));
    if (layer.kind === 'ia3') {
      tensors.push(memoryTensor(stem + partSuffix.onInput, 'BOOL', [], Uint8Array.of(layer.onInput ? 1 : 0)));
    } else if (layer.rank !== null) {
      tensors.push(float32Tensor(stem + partSuffix.alpha, [], Float32Array.of(layer.scale * layer.rank)));
    }
    return tensors;
  });
}

async function writeKohya(
  file: string,
  format: LayerFormat,
  output: OutputAdapter,
  tensors: readonly RawTensor[],
  pace: Pace,
): Promise<void> {
  const { layers, architecture, words, title, metadata } = output;
  const all = [...tensors, ...bundledTensors(words)];
  const alphas = new Set(layers.map((layer) => (layer.rank === null ? null : layer.scale * layer.rank)));
  const alpha = alphas.size === 1 ? [...alphas][0]! : null;
  const network: Record<string, string> = {
    ...networkMetadata({ title, ranks: ranksOf(layers) }),
    ss_network_alpha: alpha === null ? 'Dynamic' : String(Math.fround(alpha)),
    ...(architecture === 'sdxl' ? { ss_base_model_version: 'sdxl_base_v1-0' } : {}),
    ...(format === 'lycoris' ? { ss_network_module: 'lycoris.kohya' } : {}),
  };
  const kept = Object.fromEntries(
    Object.entries(metadata ?? {}).filter(([key]) => key.startsWith('ss_') && !(key in network)),
  );
  const { modelHash, legacyHash } = await sshsHashesOf(all, { ...kept, ...network }, pace);
  const header = {
    ...describe(output),
    ...network,
    format: 'pt',
    'modelspec.hash_sha256': `0x${modelHash}`,
    sshs_model_hash: modelHash,
    sshs_legacy_hash: legacyHash,
  };
  refuseUnreadable(file, format, unwrittenFile(file, all, header), output);
  await writeSafetensors(file, all, header, pace);
}

async function writePeft(
  folder: string,
  layers: readonly LoraLayer[],
  output: OutputAdapter,
  pace: Pace,
): Promise<void> {
  const { key } = schemes.peft;
  const parts = componentsOf(output.architecture).flatMap((component) => {
    const own = layers.filter((layer) => layer.component === component);
    if (own.length === 0) return [];
    const file = path.join(folder, component, 'adapter_model.safetensors');
    const tensors = own.flatMap((layer) => factorTensors(layer, key!, output.architecture));
    const metadata = { ...describe(output), format: 'pt' };
    const config = adapterConfig(own);
    const intended = { layers: own, words: [], component, config };
    refuseUnreadable(file, 'peft', unwrittenFile(file, tensors, metadata), intended);
    return [{ component, tensors, metadata, config }];
  });
  await writeFolderAtomically(folder, async (temporary) => {
    for (const { component, tensors, metadata, config } of parts) {
      const place = path.join(temporary, component);
      await makeFolder(place);
      await writeSafetensors(path.join(place, 'adapter_model.safetensors'), tensors, metadata, pace);
      const text = `${JSON.stringify(config, null, 2)}\n`;
      await writeFileAtomically(path.join(place, adapterConfigName), [text]);
      await pace.turn();
    }
  });
}

/** A LoraConfig whose scales are the layers' own. */
function adapterConfig(layers: readonly LoraLayer[]): Record<string, unknown> {
  const r = mostCommon(layers.map(({ rank }) => rank!));
  const loraAlpha = mostCommon(layers.map(loraAlphaOf));
  const exceptions = (usual: number, of: (layer: LoraLayer) => number): Record<string, number> =>
    Object.fromEntries(
      layers.filter((layer) => of(layer) !== usual).map((layer) => [layer.layerName, of(layer)]),
    );
  return {
    peft_type: 'LORA',
    task_type: null,
    base_model_name_or_path: null,
    inference_mode: true,
    r,
    lora_alpha: loraAlpha,
    rank_pattern: exceptions(r, ({ rank }) => rank!),
    alpha_pattern: exceptions(loraAlpha, loraAlphaOf),
    target_modules: layers.map(({ layerName }) => layerName),
    lora_dropout: 0,
    bias: 'none',
    use_rslora: false,
    use_dora: false,
    fan_in_fan_out: false,
  };
}

function mostCommon(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}

async function writeEdLora(
  file: string,
  layers: readonly LoraLayer[],
  output: OutputAdapter,
  pace: Pace,
): Promise<void> {
  const { key } = schemes['ed-lora'];
  const words = layerWiseWords(output.words);
  const factors = layers.flatMap((layer) => factorTensors(layer, key!, 'sd1'));
  const tensors = [
    ...words.map(({ word, embedding }) => renamed(embedding, edLoraEmbeddingKey(word))),
    ...factors,
  ];
  const order = { [tokenOrderKey]: JSON.stringify(words.map(({ word }) => word)) };
  const header = isTorchName(file) ? {} : { ...describe(output), format: 'pt', ...order };
  refuseUnreadable(file, 'ed-lora', unwrittenFile(file, tensors, header), { layers, words });
  if (!isTorchName(file)) return writeSafetensors(file, tensors, header, pace);
  const dictionary = (component: AdapterComponent) =>
    new Map(
      factors
        .filter(({ name }) => name.startsWith(`${component}.`))
        .map((tensor) => [tensor.name.slice(component.length + 1), torchTensor(tensor)]),
    );
  const params = new Map([
    ['new_concept_embedding', new Map(words.map(({ word, embedding }) => [word, torchTensor(embedding)]))],
    ['text_encoder', dictionary('text_encoder')],
    ['unet', dictionary('unet')],
  ]);
  await writeTorchZip(file, new Map([['params', params]]), pace);
}

async function writePositional(
  file: string,
  layers: readonly LoraLayer[],
  output: OutputAdapter,
  pace: Pace,
): Promise<void> {
  const byId = new Map(layers.map((layer) => [adapterModuleId(layer), layer]));
  const tensors: RawTensor[] = [];
  const header: Record<string, string> = {};
  for (const component of ['unet', 'text_encoder'] as const) {
    const own = layers.filter((layer) => layer.component === component);
    if (own.length === 0) continue;
    const feedForward = own.some(({ layerName }) => layerName.includes('.ff.'));
    const walk: AdapterModule[] =
      component === 'text_encoder'
        ? positionalLayers(component).slice(0, Math.ceil(own.length / 4) * 4)
        : positionalLayers(component, feedForward ? 0 : 2);
    const missing = walk.map(adapterModuleId).filter((id) => !byId.has(id));
    if (missing.length > 0) {
      throw new UsageError(
        `${file}: numbered layers must be complete, ${missing.length} of ${walk.length} are missing: ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', …' : ''}`,
      );
    }
    walk.forEach((module, i) => {
      const layer = byId.get(adapterModuleId(module))!;
      header[`${component}:${i}:rank`] = String(layer.rank);
      tensors.push(renamed(layer.up, `${component}:${i}:up`), renamed(layer.down, `${component}:${i}:down`));
    });
    header[component] = JSON.stringify(
      component === 'text_encoder'
        ? ['CLIPAttention']
        : ['CrossAttention', 'Attention', ...(feedForward ? ['GEGLU'] : [])],
    );
  }
  const words = spreadTokens(output.words);
  for (const { word, embedding } of words) {
    const [width, stride] = [embedding.shape[1]!, embedding.strides[1]!];
    tensors.push({ ...embedding, name: word, shape: [width], strides: [stride] });
    header[word] = '<embed>';
  }
  const metadata = { ...describe(output), ...header };
  refuseUnreadable(file, 'cloneofsimo', unwrittenFile(file, tensors, metadata), { layers, words });
  await writeSafetensors(file, tensors, metadata, pace);
}
