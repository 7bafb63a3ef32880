/**
 * Files and folders to `Adapter`: any LoRA-like file of Stable Diffusion 1.x or SDXL, and files of embeddings. Headers
 * and alphas are read, nothing else.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError, MismatchError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { openTensorFile, type TensorFile } from '../formats/tensor-file.ts';
import { infoOf } from '../io/file-info.ts';
import { foreignArchitecture } from '../models/keys/architecture.ts';
import type { ModulePath } from '../models/keys/module-path.ts';
import type { AdapterComponent, AdapterModule, Architecture } from '../models/keys/sd-modules.ts';
import type { Adapter, AdapterLayer, AdapterScheme, AdapterWord } from './adapter.ts';
import { type CollectedLayers, collectAdapterLayers } from './layer-parts.ts';
import { refuseUnlikelyNames } from './name-limits.ts';
import { isPositional, positionalNames, positionalWords } from './schemes/cloneofsimo.ts';
import { isCustomDiffusion, readCustomDiffusion } from './schemes/custom-diffusion.ts';
import { adapterScalings } from './schemes/diffusers.ts';
import { orderedWords } from './schemes/ed-lora.ts';
import { edLoraWord } from './schemes/ed-lora-names.ts';
import { kohyaNames } from './schemes/kohya-names.ts';
import {
  isKohyaStyle,
  parseDiffusersStyle,
  parseEdLoraStyle,
  parseKohyaStyle,
  parsePeftStyle,
} from './schemes/names.ts';
import { adapterConfigName, readAdapterConfig } from './schemes/peft.ts';
import { peftScale, peftScaling } from './schemes/peft-names.ts';
import { bundledWords, isBundledEmbedding, readTextualInversion } from './schemes/textual-inversion.ts';
import { strayValues } from './stray-values.ts';

/**
 * Open an adapter: kohya, LyCORIS, diffusers (three spellings), PEFT folder, ED-LoRA, cloneofsimo, Custom Diffusion, or
 * embeddings. The content decides, not the name.
 * @throws {FormatError} if the file is damaged, of an unknown scheme (the nearest is named) or has names that mean nothing
 * @throws {MismatchError} if it is for SD 2.x, SD 3 or Flux
 */
export async function loadAdapter(
  file: string,
  options: Pick<ReadAdapterOptions, 'modules'> = {},
): Promise<Adapter> {
  const info = infoOf(file);
  if (info === undefined) throw new FormatError(file, 'no such file or folder');
  if (!info.isDirectory()) return readAdapter(await openTensorFile(file), options);
  return readFolder(path.resolve(file), options);
}

export interface ReadAdapterOptions {
  /** Network of a PEFT adapter, where its folder tells it. */
  readonly component?: AdapterComponent | null;
  /** PEFT: the adapter's configuration. Default: the file beside the weights. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** The layers of the base. Needed only for kohya files of bases whose layers are of no known family. */
  readonly modules?: Iterable<ModulePath>;
}

/** An opened file as an adapter. @throws as `loadAdapter` */
export function readAdapter(file: TensorFile, options: ReadAdapterOptions = {}): Adapter {
  refuseUnlikelyNames(file);
  const stray = file.root === null ? [] : strayValues(file.root);
  if (file.tensors.size === 0 && stray.length > 0) {
    throw new FormatError(
      file.path,
      `expected LoRA layers or embeddings, got no tensors, but\n  ${stray
        .slice(0, 20)
        .map((name) => excerpt(name))
        .join('\n  ')}`,
    );
  }
  const architecture = architectureOf(file);
  const scheme = schemeOf(file);
  const { layers, words, unusable, unknown } = readScheme(scheme, file, architecture, options);
  refuseUnknown(file, scheme, unknown);
  if (layers.size === 0 && words.length === 0 && unusable.length === 0) {
    throw new FormatError(file.path, 'expected LoRA layers or embeddings, the file holds neither');
  }
  const { path: location, metadata } = file;
  return {
    path: location,
    files: [location],
    scheme,
    architecture,
    layers,
    words,
    metadata,
    unusable,
    stray,
  };
}

interface Content extends Omit<CollectedLayers, 'layers'> {
  readonly layers: ReadonlyMap<string, AdapterLayer>;
  readonly words: readonly AdapterWord[];
}

function readScheme(
  scheme: AdapterScheme,
  file: TensorFile,
  architecture: Architecture,
  { component = null, config, modules }: ReadAdapterOptions,
): Content {
  const tensors = [...file.tensors.values()];
  switch (scheme) {
    case 'kohya':
    case 'lycoris': {
      const words = bundledWords(file.path, tensors);
      const names = modules === undefined ? undefined : kohyaNames(file.path, modules);
      const layers = collectAdapterLayers(
        file.path,
        tensors.filter(({ name }) => !isBundledEmbedding(name)),
        {
          architecture,
          parse: (name) => parseKohyaStyle(name, architecture, names),
          // Also right for rank-stabilised LyCORIS files: they store alpha · √rank.
          scale: (_, rank, alpha) => (alpha ?? rank) / rank,
        },
      );
      return { ...layers, words };
    }
    case 'diffusers': {
      const scalings = adapterScalings(file, { dora: true });
      const layers = collectAdapterLayers(file.path, tensors, {
        architecture,
        parse: parseDiffusersStyle,
        scale: (module, rank, alpha) => {
          const scaling = alpha === null ? scalings.get(module.component) : undefined;
          return scaling === undefined
            ? (alpha ?? rank) / rank
            : peftScale(file.path, scaling, module.layerName, rank);
        },
      });
      return { ...layers, words: [] };
    }
    case 'peft': {
      const configFile = path.join(path.dirname(file.path), adapterConfigName);
      const scaling = peftScaling(configFile, config ?? readAdapterConfig(file.path, configFile), {
        dora: true,
      });
      const layers = collectAdapterLayers(file.path, tensors, {
        architecture,
        parse: (name) => parsePeftStyle(name, component),
        scale: ({ layerName }, rank) => peftScale(file.path, scaling, layerName, rank),
      });
      return { ...layers, words: [] };
    }
    case 'ed-lora': {
      const words = orderedWords(file).map(({ word, embedding }) => ({
        word,
        embedding,
        rows: embedding.shape[0]! > 1 ? ('layers' as const) : ('tokens' as const),
        encoder: 'text_encoder' as const,
      }));
      const layers = collectAdapterLayers(
        file.path,
        tensors.filter(({ name }) => edLoraWord(name.replace(/^params\./, '')) === null),
        { architecture, parse: parseEdLoraStyle, scale: () => 1 },
      );
      return { ...layers, words };
    }
    case 'cloneofsimo': {
      const words = positionalWords(file.path, file.tensors, file.metadata);
      const known = new Set(words.map(({ word }) => word));
      const layers = collectAdapterLayers(
        file.path,
        tensors.filter(({ name }) => !known.has(name)),
        { architecture, parse: positionalNames(file.path, file.tensors), scale: () => 1 },
      );
      return { ...layers, words };
    }
    case 'custom-diffusion':
      return { ...readCustomDiffusion(file.path, file.tensors), unusable: [] };
    case 'embedding':
      return { layers: new Map(), words: readTextualInversion(file)!, unusable: [], unknown: [] };
  }
}

const schemes: readonly (readonly [AdapterScheme, (name: string) => boolean])[] = [
  ['kohya', (name) => isKohyaStyle(name) || isBundledEmbedding(name)],
  ['peft', (name) => name.startsWith('base_model.model.')],
  [
    'ed-lora',
    (name) => edLoraWord(name.replace(/^params\./, '')) !== null || parseEdLoraStyle(name) !== null,
  ],
  ['cloneofsimo', isPositional],
  ['diffusers', (name) => parseDiffusersStyle(name) !== null],
  ['custom-diffusion', isCustomDiffusion],
];

/** The scheme that owns most names. @throws {FormatError} if none owns any */
function schemeOf(file: TensorFile): AdapterScheme {
  const names = [...file.tensors.keys()];
  const counts = schemes.map(([, owns]) => names.filter(owns).length);
  const most = Math.max(0, ...counts);
  if (most > 0) {
    const scheme = schemes[counts.indexOf(most)]![0];
    const beyondLora = /\.(lora_mid\.weight|dora_scale|hada_\w+|lokr_\w+|diff|diff_b|on_input)$/;
    const isLycoris =
      scheme === 'kohya' && names.some((name) => beyondLora.test(name) || name.startsWith('lycoris_'));
    return isLycoris ? 'lycoris' : scheme;
  }
  if (readTextualInversion(file) !== null) return 'embedding';
  return refuseUnknown(file, null, names);
}

const examples: Readonly<Record<string, AdapterScheme>> = {
  'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight': 'kohya',
  'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a': 'lycoris',
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight': 'diffusers',
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight': 'diffusers',
  'base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight': 'peft',
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_down.weight': 'ed-lora',
  'unet:0:down': 'cloneofsimo',
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight': 'custom-diffusion',
};

function refuseUnknown(
  file: TensorFile,
  scheme: AdapterScheme | null,
  names: readonly string[],
): never | AdapterScheme {
  if (names.length === 0 && scheme !== null) return scheme;
  if (names.length === 0)
    throw new FormatError(file.path, 'expected LoRA layers or embeddings, got no tensors');
  const checkpoint = names.find((name) =>
    /^(model\.diffusion_model|first_stage_model|cond_stage_model)\./.test(name),
  );
  if (checkpoint !== undefined) {
    throw new FormatError(file.path, 'expected a LoRA or embeddings, got a whole checkpoint', {
      tensor: checkpoint,
    });
  }
  const nearest = scheme ?? nearestScheme(names);
  const listed = names.slice(0, 20).map((name) => `\n  ${excerpt(name)}`);
  if (names.length > listed.length) listed.push(`\n  … and ${names.length - listed.length} more`);
  throw new FormatError(
    file.path,
    `${names.length} ${names.length === 1 ? 'entry is' : 'entries are'} of no known layer${
      nearest === null
        ? '; no known scheme is near'
        : scheme === null
          ? `; the nearest scheme is ${nearest}`
          : ` (scheme ${nearest})`
    }:${listed.join('')}`,
    { tensor: names[0]! },
  );
}

/** The scheme whose names share most parts with the first ones of a file; at least half of them. */
function nearestScheme(names: readonly string[]): AdapterScheme | null {
  const partsOf = (name: string): Set<string> =>
    new Set(name.split(/[.:]/).filter((part) => !/^\d+$/.test(part)));
  let best: AdapterScheme | null = null;
  let most = 0.5;
  for (const name of names.slice(0, 50)) {
    const parts = partsOf(name);
    for (const [example, scheme] of Object.entries(examples)) {
      const known = partsOf(example);
      const shared = [...parts].filter((part) => known.has(part)).length / parts.size;
      if (shared > most) [best, most] = [scheme, shared];
    }
  }
  return best;
}

/** Which family a file is for. @throws {MismatchError} for families that are not supported */
function architectureOf(file: TensorFile): Architecture {
  const tensors = [...file.tensors.values()];
  const foreign = foreignArchitecture(tensors);
  if (foreign === null) return 'sd1';
  if (foreign !== 'SDXL') {
    throw new MismatchError(
      `${file.path}: expected an adapter for Stable Diffusion 1.x or SDXL, got one for ${foreign}`,
    );
  }
  // Block numbers of the original alone do not tell SDXL from SD 1.x: which table has the names?
  const certain = tensors.some(({ name }) =>
    /^lora_te2_|^text_encoder_2\.|[._]transformer_blocks[._]([1-9]|\d\d)[._]/.test(name),
  );
  const wide = tensors.some(
    ({ name, shape }) => /attn2[._].*to_[kv]/.test(name) && /down|lora_A/.test(name) && shape[1] === 2048,
  );
  if (certain || wide) return 'sdxl';
  const owned = (architecture: Architecture): number =>
    tensors.filter(({ name }) => parseKohyaStyle(name, architecture) !== null).length;
  return owned('sd1') >= owned('sdxl') ? 'sd1' : 'sdxl';
}

const folderParts: readonly (readonly [string, AdapterComponent | null])[] = [
  ['', null],
  ['unet', 'unet'],
  ['text_encoder', 'text_encoder'],
  ['text_encoder_2', 'text_encoder_2'],
];

async function readFolder(folder: string, options: ReadAdapterOptions): Promise<Adapter> {
  const found: Adapter[] = [];
  const configs: string[] = [];
  for (const [part, component] of folderParts) {
    const place = path.join(folder, part);
    const config = path.join(place, adapterConfigName);
    if (!existsSync(config)) continue;
    const weights = ['adapter_model.safetensors', 'adapter_model.bin']
      .map((name) => path.join(place, name))
      .find((file) => existsSync(file));
    if (weights === undefined) {
      throw new FormatError(place, `${adapterConfigName} without adapter_model.safetensors`);
    }
    found.push(readAdapter(await openTensorFile(weights), { ...options, component }));
    configs.push(config);
  }
  if (found.length === 0) {
    const single = ['pytorch_lora_weights.safetensors', 'pytorch_lora_weights.bin']
      .map((name) => path.join(folder, name))
      .find((file) => existsSync(file));
    if (single !== undefined) return readAdapter(await openTensorFile(single), options);
    throw new FormatError(
      folder,
      `expected an adapter file, or a folder with ${adapterConfigName} or pytorch_lora_weights.safetensors`,
    );
  }
  return joined(folder, found, configs);
}

/** Adapters of several networks as one. @throws {FormatError} if two change the same layer */
function joined(folder: string, adapters: readonly Adapter[], configs: readonly string[]): Adapter {
  const layers = new Map<string, AdapterLayer>();
  for (const adapter of adapters) {
    for (const [id, layer] of adapter.layers) {
      if (layers.has(id)) throw new FormatError(folder, `${id} is in two of its adapters`, { tensor: id });
      layers.set(id, layer);
    }
  }
  return {
    path: folder,
    files: [...adapters.flatMap(({ files }) => files), ...configs],
    scheme: 'peft',
    architecture:
      adapters.some(({ architecture }) => architecture === 'sdxl') || layersOfSecondEncoder(layers)
        ? 'sdxl'
        : 'sd1',
    layers,
    words: [],
    metadata: new Map(adapters.flatMap(({ metadata }) => [...metadata])),
    unusable: adapters.flatMap(({ unusable }) => unusable),
    stray: adapters.flatMap(({ stray }) => stray),
  };
}

function layersOfSecondEncoder(layers: ReadonlyMap<string, AdapterModule>): boolean {
  return [...layers.values()].some(({ component }) => component === 'text_encoder_2');
}
