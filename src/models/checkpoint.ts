/**
 * A Stable Diffusion 1.x model as it lies on disk: a diffusers folder or an original single file. Opening reads
 * configs and headers only; weights stay where they are and are named as diffusers names them.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { FormatError, MismatchError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { openShardedOrSingle, openTensorFile, type TensorFile } from '../formats/tensor-file.ts';
import { infoOf } from '../io/file-info.ts';
import { textLayers } from './clip/changeable-layers.ts';
import { CLIP_VIT_L_TEXT, type ClipTextConfig, clipTextSchema } from './clip/config.ts';
import { type ClipTokenizer, loadTokenizer } from './clip/tokenizer.ts';
import { readConfig } from './config-file.ts';
import { checkTextEncoderFits, checkUnetFits, checkVaeFits } from './config-fit.ts';
import { type Layer, LayerTable } from './families/layer-table.ts';
import { foreignArchitecture } from './keys/architecture.ts';
import { canonicalTextEncoderName, canonicalVaeName } from './keys/diffusers.ts';
import { ldmTextEncoderNames, ldmUnetNames, ldmVaeNames } from './keys/ldm.ts';
import type { WeightSource } from './network.ts';
import { unetLayers } from './unet/changeable-layers.ts';
import { SD15_UNET, type UnetConfig, unetSchema } from './unet/config.ts';
import { SD15_VAE, type VaeConfig, vaeSchema } from './vae/config.ts';

/** One network of a checkpoint. */
export interface ModelPart<C> {
  readonly config: C;
  readonly weights: WeightSource;
  /** The weight files as they are, for hashing and rewriting. */
  readonly file: TensorFile;
  /** What can be changed in it, by layer name. */
  readonly layers: ReadonlyMap<string, Layer>;
}

export interface Checkpoint {
  /** Absolute path of the folder or file. */
  readonly path: string;
  readonly layout: 'diffusers' | 'single-file';
  readonly tokenizer: ClipTokenizer;
  readonly textEncoder: ModelPart<ClipTextConfig>;
  readonly unet: ModelPart<UnetConfig>;
  /** What can be changed, by the configurations. */
  readonly layers: LayerTable;
  /** Path of its scheduler_config.json; null if it has none (single files). */
  readonly schedulerConfigFile: string | null;
  /** The autoencoder, opened when asked for: fusion does without. @throws {FormatError} if it is missing or damaged */
  vae(): Promise<ModelPart<VaeConfig>>;
}

export interface CheckpointOptions {
  /**
   * A diffusers folder whose tokenizer and configs describe a single-file checkpoint; such files hold weights only.
   * For a single file of SD 1.x its `tokenizer/` is enough. Ignored for diffusers folders.
   */
  readonly configFolder?: string;
}

/**
 * Open a model.
 * @param location diffusers folder, or original single-file checkpoint (.safetensors, .ckpt)
 * @throws {FormatError} if files are missing, unsafe or damaged
 * @throws {MismatchError} if it is a model of another architecture, which is named
 */
export async function openCheckpoint(location: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  const absolute = path.resolve(location);
  const info = infoOf(absolute);
  if (info === undefined) throw new FormatError(location, 'no such file or folder; check --base');
  return info.isDirectory() ? openFolder(absolute) : openSingleFile(absolute, options.configFolder);
}

const INDEX_SCHEMA = z.object({ _class_name: z.string().default('') });

async function openFolder(folder: string): Promise<Checkpoint> {
  const index = path.join(folder, 'model_index.json');
  if (!existsSync(index) && !existsSync(path.join(folder, 'unet'))) {
    throw new FormatError(
      folder,
      'expected a diffusers folder (model_index.json, unet/, text_encoder/, tokenizer/)',
    );
  }
  if (existsSync(index)) {
    const { _class_name: pipeline } = await readConfig(index, INDEX_SCHEMA);
    const foreign = /XL|Flux|StableDiffusion3|Kandinsky|PixArt|Sana|Cascade/.exec(pipeline);
    if (foreign) throw new MismatchError(`${folder}: expected a Stable Diffusion 1.x model, got ${pipeline}`);
  }
  const open = async <C>(
    part: string,
    schema: z.ZodType<C>,
    stems: readonly string[],
    canonical: (name: string) => string,
    checkFits: (configFile: string, config: C, weights: WeightSource) => void,
    layersOf: (config: C) => Layer[] = () => [],
  ): Promise<ModelPart<C>> => {
    const configFile = path.join(folder, part, 'config.json');
    const config = await readConfig(configFile, schema);
    const file = await openShardedOrSingle(path.join(folder, part), ...stems);
    if (part === 'unet') refuseOtherFamilies(folder, file);
    const weights = namedSource(file, canonical);
    checkFits(configFile, config, weights);
    return { config, file, weights, layers: byName(layersOf(config)) };
  };
  const unet = await open(
    'unet',
    unetSchema,
    ['diffusion_pytorch_model'],
    (name) => name,
    checkUnetFits,
    unetLayers,
  );
  const tokenizer = await loadTokenizer(path.join(folder, 'tokenizer'));
  const textEncoder = await open(
    'text_encoder',
    clipTextSchema,
    ['model', 'pytorch_model'],
    canonicalTextEncoderName,
    checkTextEncoderFits,
    textLayers,
  );
  return {
    path: folder,
    layout: 'diffusers',
    tokenizer,
    textEncoder,
    unet,
    layers: tableOf(textEncoder, unet),
    schedulerConfigFile: existing(path.join(folder, 'scheduler', 'scheduler_config.json')),
    vae: () => open('vae', vaeSchema, ['diffusion_pytorch_model'], canonicalVaeName, checkVaeFits),
  };
}

async function openSingleFile(file: string, configFolder: string | undefined): Promise<Checkpoint> {
  const opened = await openTensorFile(file);
  const tensors = withoutCommonPrefix(opened.tensors, 'state_dict.');
  refuseOtherFamilies(file, { ...opened, tensors });
  if (!tensors.has('model.diffusion_model.input_blocks.0.0.weight')) {
    throw new FormatError(
      file,
      'expected a whole Stable Diffusion checkpoint (model.diffusion_model.…); is this a LoRA or a single component?',
    );
  }
  if (configFolder === undefined) {
    throw new FormatError(
      file,
      'a single-file checkpoint holds no tokenizer; name a diffusers folder that has tokenizer/ with --base-config',
    );
  }
  const configFileOf = (part: string): string => path.join(configFolder, part, 'config.json');
  const described = async <C>(part: string, schema: z.ZodType<C>, known: C): Promise<C> => {
    const config = configFileOf(part);
    return existsSync(config) ? readConfig(config, schema) : known;
  };
  const unetConfig = await described('unet', unetSchema, SD15_UNET);
  const attention = unetConfig.blocks.map((block) => block.crossAttention);
  const unetNames = ldmUnetNames({
    layersPerBlock: unetConfig.layersPerBlock,
    downAttention: attention,
    upAttention: attention.toReversed(),
  });
  const part = <C>(
    name: string,
    config: C,
    toLdm: (name: string) => string | null,
    checkFits: (configFile: string, config: C, weights: WeightSource) => void,
    layersOf: (config: C) => Layer[] = () => [],
  ): ModelPart<C> => {
    const weights: WeightSource = {
      label: file,
      get: (param) => {
        const stored = toLdm(param);
        return stored === null ? undefined : tensors.get(stored);
      },
    };
    checkFits(existing(configFileOf(name)) ?? file, config, weights);
    return { config, file: opened, weights, layers: byName(layersOf(config)) };
  };
  const tokenizer = await loadTokenizer(configFolder);
  const textEncoder = part(
    'text_encoder',
    await described('text_encoder', clipTextSchema, CLIP_VIT_L_TEXT),
    (name) => ldmTextEncoderNames.toLdm(name),
    checkTextEncoderFits,
    textLayers,
  );
  const unet = part('unet', unetConfig, (name) => unetNames.toLdm(name), checkUnetFits, unetLayers);
  return {
    path: file,
    layout: 'single-file',
    tokenizer,
    textEncoder,
    unet,
    layers: tableOf(textEncoder, unet),
    schedulerConfigFile: existing(path.join(configFolder, 'scheduler', 'scheduler_config.json')),
    vae: async () => {
      const config = await described('vae', vaeSchema, SD15_VAE);
      const names = ldmVaeNames({
        blocks: config.blockChannels.length,
        layersPerBlock: config.layersPerBlock,
      });
      return part('vae', config, (name) => names.toLdm(name), checkVaeFits);
    },
  };
}

function byName(layers: readonly Layer[]): ReadonlyMap<string, Layer> {
  return new Map(layers.map((layer) => [layer.layerName, layer]));
}

function tableOf(...parts: readonly Pick<ModelPart<unknown>, 'layers'>[]): LayerTable {
  return new LayerTable(parts.flatMap(({ layers }) => [...layers.values()]));
}

function refuseOtherFamilies(location: string, { tensors }: TensorFile): void {
  const foreign = foreignArchitecture(tensors.values());
  if (foreign !== null) {
    throw new MismatchError(`${location}: expected a Stable Diffusion 1.x model, got ${foreign}`);
  }
}

function namedSource(file: TensorFile, canonical: (name: string) => string): WeightSource {
  const tensors = new Map<string, RawTensor>();
  for (const [name, tensor] of file.tensors) tensors.set(canonical(name), tensor);
  return { label: file.path, get: (name) => tensors.get(name) };
}

/** Training checkpoints keep everything under one key. */
function withoutCommonPrefix(
  tensors: ReadonlyMap<string, RawTensor>,
  prefix: string,
): ReadonlyMap<string, RawTensor> {
  const inside = [...tensors].filter(([name]) => name.startsWith(prefix));
  return inside.length === 0
    ? tensors
    : new Map(inside.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}

function existing(file: string): string | null {
  return existsSync(file) ? file : null;
}
