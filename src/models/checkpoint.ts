/**
 * A base model as it lies on disk: a diffusers folder or an original single file, of a family that families.ts has whole.
 * Opening reads configs and headers only; weights stay where they are and are named as diffusers names them.
 */

import { z } from 'zod';
import { FormatError, MismatchError, MissingWeightError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { openShardedOrSingle, openTensorFile, shardedOrSingle } from '../formats/open-tensor-file.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { exists, infoOf } from '../io/file-info.ts';
import * as path from '../io/platform/paths.ts';
import { tokenizerBeside, tokenizerInFolder } from './base-tokenizer.ts';
import type { ClipTextConfig } from './clip/config.ts';
import type { ClipTokenizer } from './clip/tokenizer.ts';
import { readConfig } from './config-file.ts';
import { BASE_FAMILIES, DEFAULT_FAMILY, FAMILIES, hasBase, titlesOf } from './families/families.ts';
import type { BaseFamily, ComponentLayout, Family, TextEncoderLayout } from './families/family.ts';
import type { ComponentId } from './families/layer-table.ts';
import type { ModelPart, TextPart } from './families/model-part.ts';
import { Parts } from './families/parts.ts';
import { familyOf, familyOfPipeline } from './families/recognise.ts';
import { heldParameters, type ReadNames } from './keys/read-names.ts';
import {
  type ModelSchedule,
  type PredictionType,
  readScheduleKeys,
  type ScheduleKeys,
} from './model-schedule.ts';
import type { WeightSource } from './network.ts';
import { singleFileSchedule } from './single-file-schedule.ts';
import { TIME_IDS, type UnetConfig } from './unet/config.ts';
import type { VaeConfig } from './vae/config.ts';

export type { ModelPart } from './families/model-part.ts';

export interface Checkpoint {
  /** Absolute path of the folder or file. */
  readonly path: string;
  readonly layout: 'diffusers' | 'single-file';
  readonly family: BaseFamily;
  /** Of its first text encoder; `parts` has all. */
  readonly tokenizer: ClipTokenizer;
  /** Its networks. */
  readonly parts: Parts;
  /** The noise it was trained with, and what its UNet predicts. */
  readonly schedule: ModelSchedule;
  /** Whether no prompt at all is features of zeros rather than the empty text's. */
  readonly zerosForNoPrompt: boolean;
}

export interface CheckpointOptions {
  /**
   * A diffusers folder whose tokenizer and configs describe a single-file checkpoint; such files hold weights only.
   * For a published architecture its `tokenizer/` is enough. Text encoders and autoencoder that the model lacks come from it too.
   */
  readonly configFolder?: string;
  /** What its UNet predicts, in place of what its files say. */
  readonly prediction?: PredictionType;
  /** Families that a model may be of, see families.ts for what their order means. Default: all that are known. */
  readonly families?: readonly Family[];
}

/**
 * Open a model.
 * @param location diffusers folder, or original single-file checkpoint (.safetensors, .ckpt)
 * @throws {FormatError} if files are missing, unsafe or damaged
 * @throws {MismatchError} if it is a model of another family, which is named
 */
export async function openCheckpoint(location: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  const absolute = path.resolve(location);
  const info = infoOf(absolute);
  if (info === undefined) throw new FormatError(location, 'no such file or folder; check `base`');
  return info.isDirectory() ? openFolder(absolute, options) : openSingleFile(absolute, options);
}

const INDEX_SCHEMA = z.object({
  _class_name: z.string().default(''),
  force_zeros_for_empty_prompt: z.boolean().nullish(),
});

/** A folder's model_index.json; `null` if there is none. */
async function indexOf(folder: string): Promise<z.output<typeof INDEX_SCHEMA> | null> {
  const file = path.join(folder, 'model_index.json');
  return exists(file) ? readConfig(file, INDEX_SCHEMA) : null;
}

async function openFolder(
  folder: string,
  { configFolder, families = FAMILIES, prediction }: CheckpointOptions,
): Promise<Checkpoint> {
  const index = await indexOf(folder);
  const { unet } = DEFAULT_FAMILY.base;
  if (index === null && !exists(path.join(folder, unet.id))) {
    throw new FormatError(
      folder,
      'expected a diffusers folder (model_index.json, unet/, text_encoder/, tokenizer/)',
    );
  }
  if (index !== null) {
    const { _class_name: pipeline } = index;
    const named = familyOfPipeline(pipeline, families);
    if (named !== null && !hasBase(named)) throw otherFamily(folder, pipeline);
  }
  const unetFile = await weightFileOf(folder, unet);
  return assembled(baseFamilyOf(folder, unetFile, families), {
    path: folder,
    layout: 'diffusers',
    configFolder: folder,
    scheduleSigns: {},
    prediction,
    tokenizer: async (encoder) => {
      if (exists(path.join(folder, encoder.tokenizer))) return tokenizerInFolder(folder, encoder);
      if (configFolder !== undefined) return tokenizerBeside(configFolder, encoder);
      throw lacking(folder, `${encoder.tokenizer}/`, encoder.tokenizer, configFolder);
    },
    open: (component) =>
      holdsWeights(folder, component)
        ? partInFolder(folder, component, component.id === unet.id ? unetFile : undefined)
        : partBeside(folder, `${component.id}/`, configFolder, component),
  });
}

async function openSingleFile(
  file: string,
  { configFolder, families = FAMILIES, prediction }: CheckpointOptions,
): Promise<Checkpoint> {
  const opened = await openTensorFile(file);
  const tensors = withoutCommonPrefix(opened.tensors, 'state_dict.');
  const family = baseFamilyOf(file, { tensors }, families);
  if (!tensors.has(family.base.singleFileSign)) {
    throw new FormatError(
      file,
      'expected a whole Stable Diffusion checkpoint (model.diffusion_model.…); is this a LoRA or a single component?',
    );
  }
  if (configFolder === undefined) {
    throw new FormatError(
      file,
      'a single-file checkpoint holds no tokenizer; name a diffusers folder that has tokenizer/ with `configFolder`',
    );
  }
  return assembled(family, {
    path: file,
    layout: 'single-file',
    configFolder,
    scheduleSigns: await singleFileSchedule(opened, tensors, prediction),
    prediction,
    tokenizer: (encoder) => tokenizerBeside(configFolder, encoder),
    open: async (component) => {
      const { id, parse, published, singleFilePrefix, singleFile } = component;
      const own = [...tensors].filter(([name]) => name.startsWith(singleFilePrefix));
      if (own.length === 0) return partBeside(file, `${id} (${singleFilePrefix}…)`, configFolder, component);
      const configFile = existing(path.join(configFolder, id, 'config.json'));
      const config = configFile === null ? published : await parse(configFile);
      return partOf(component, configFile ?? file, config, opened, own, singleFile(config));
    },
  });
}

/**
 * A network that a model lacks, from the folder of its configurations.
 * @param what as the model would hold it
 * @throws {FormatError} if that lacks it too
 */
async function partBeside<C>(
  model: string,
  what: string,
  configFolder: string | undefined,
  component: ComponentLayout<C>,
): Promise<ModelPart<C>> {
  if (configFolder !== undefined && holdsWeights(configFolder, component)) {
    return partInFolder(configFolder, component);
  }
  throw lacking(model, what, component.id, configFolder);
}

/** @param folder what a diffusers folder would have that can supply it */
function lacking(model: string, what: string, folder: string, configFolder: string | undefined): FormatError {
  const nor = configFolder === undefined ? '' : `, and ${configFolder} has none`;
  return new FormatError(
    model,
    `holds no ${what}${nor}; name a diffusers folder that has ${folder}/ with \`configFolder\``,
  );
}

/** Whether a folder has a network whole: some have its configuration alone. */
function holdsWeights(
  folder: string,
  { id, stems }: Pick<ComponentLayout<unknown>, 'id' | 'stems'>,
): boolean {
  return shardedOrSingle(path.join(folder, id), ...stems) !== null;
}

function weightFileOf(
  folder: string,
  { id, stems }: Pick<ComponentLayout<unknown>, 'id' | 'stems'>,
): Promise<TensorFile> {
  return openShardedOrSingle(path.join(folder, id), ...stems);
}

/** A network of a diffusers folder. */
async function partInFolder<C>(
  folder: string,
  component: ComponentLayout<C>,
  opened?: TensorFile,
): Promise<ModelPart<C>> {
  const { id, parse, canonical } = component;
  const configFile = path.join(folder, id, 'config.json');
  const config = await parse(configFile);
  const file = opened ?? (await weightFileOf(folder, component));
  return partOf(component, configFile, config, file, file.tensors, (stored) => [canonical(stored)]);
}

/** How a base lies on disk. */
interface Source extends Pick<Checkpoint, 'path' | 'layout'> {
  /** Has the tokenizers, and the scheduler's configuration if there is one. */
  readonly configFolder: string;
  /** Keys of the schedule that the model itself says, over those of the configuration. */
  readonly scheduleSigns: ScheduleKeys;
  readonly prediction: PredictionType | undefined;
  readonly tokenizer: (encoder: TextEncoderLayout) => Promise<ClipTokenizer>;
  readonly open: <C>(component: ComponentLayout<C>) => Promise<ModelPart<C>>;
}

async function assembled(
  family: BaseFamily,
  { path: location, layout, configFolder, scheduleSigns, prediction, tokenizer, open }: Source,
): Promise<Checkpoint> {
  const { base } = family;
  const unet = await open(base.unet);
  const textEncoders = new Map<ComponentId, TextPart>();
  for (const encoder of base.textEncoders) {
    const own = await tokenizer(encoder);
    textEncoders.set(encoder.id, { ...(await open(encoder)), tokenizer: own });
  }
  checkWidths(unet, [...textEncoders.values()]);
  const scheduler = existing(path.join(configFolder, 'scheduler', 'scheduler_config.json'));
  return {
    path: location,
    layout,
    family,
    tokenizer: textEncoders.get(base.textEncoders[0]!.id)!.tokenizer,
    zerosForNoPrompt: (await indexOf(configFolder))?.force_zeros_for_empty_prompt ?? base.zerosForNoPrompt,
    parts: new Parts({ textEncoders, unet, openVae: () => openVae(unet, () => open(base.vae)) }),
    schedule: {
      config: {
        ...(scheduler === null ? base.scheduler : await readScheduleKeys(scheduler)),
        ...scheduleSigns,
        ...(prediction === undefined ? {} : { prediction_type: prediction }),
      },
      file: scheduler ?? location,
      chosenPrediction: prediction,
    },
  };
}

/** @throws {FormatError} unless the UNet reads what the text encoders give side by side */
function checkWidths(
  { config, file }: ModelPart<UnetConfig>,
  encoders: readonly ModelPart<ClipTextConfig>[],
): void {
  const { addedInputs, sizeEmbeddingDim = 0 } = config;
  const pooled = encoders.find((encoder) => encoder.config.projectionDim !== undefined)?.config.projectionDim;
  const read = addedInputs === undefined ? undefined : addedInputs - TIME_IDS * sizeEmbeddingDim;
  if (read !== undefined && read !== pooled) {
    throw new FormatError(
      file.path,
      `projection_class_embeddings_input_dim: expected room for ${pooled ?? 'no'} numbers, the projection_dim of the text encoders, got ${read} beside the sizes`,
    );
  }
  const width = encoders.reduce((sum, encoder) => sum + encoder.config.hiddenSize, 0);
  if (width === config.crossAttentionDim) return;
  throw new FormatError(
    file.path,
    `cross_attention_dim: expected ${width}, the hidden_size of the text encoder${encoders.length > 1 ? 's together' : ''}, got ${config.crossAttentionDim}`,
  );
}

/** @throws {FormatError} unless its latents are those that the UNet reads */
async function openVae(
  { config }: ModelPart<UnetConfig>,
  open: () => Promise<ModelPart<VaeConfig>>,
): Promise<ModelPart<VaeConfig>> {
  const vae = await open();
  const { latentChannels } = vae.config;
  if (latentChannels === config.inChannels) return vae;
  throw new FormatError(
    vae.file.path,
    `latent_channels: expected ${config.inChannels} as the UNet's in_channels, got ${latentChannels}`,
  );
}

/**
 * A network from its stored tensors.
 * @throws {FormatError} naming the field of the configuration that the weights contradict, or tensors that are too many or too few
 */
function partOf<C>(
  { checkFits, layers, parameters }: ComponentLayout<C>,
  configFile: string,
  config: C,
  file: TensorFile,
  stored: Iterable<readonly [string, RawTensor]>,
  read: ReadNames,
): ModelPart<C> {
  const known = parameters?.(config);
  const held = new Map<string, RawTensor>();
  const strange: string[] = [];
  for (const [name, tensor] of stored) {
    const own = heldParameters(tensor, read(name));
    for (const parameter of own) {
      // Buffers may stand there twice; no network reads them.
      if (held.has(parameter.name) && /\.(weight|bias)$/.test(parameter.name)) {
        throw new FormatError(
          file.path,
          `expected ${parameter.name} once, got it twice: ${excerpt(name)} too`,
        );
      }
      held.set(parameter.name, parameter.tensor);
    }
    if (known !== undefined && !(own.length > 0 && own.every((parameter) => known.has(parameter.name)))) {
      strange.push(name);
    }
  }
  const weights: WeightSource = { label: file.path, get: (name) => held.get(name) };
  checkFits(configFile, config, weights);
  if (strange.length > 0) {
    throw new FormatError(
      file.path,
      `expected the weights of ${configFile}, got ${strange.length} of no layer in it: ${named(strange)}; a network that is not built here?`,
    );
  }
  const missing = [...(known ?? [])].filter((name) => !held.has(name));
  if (missing.length > 0) {
    throw new MissingWeightError(
      file.path,
      `no weights for ${missing.length} parameters: ${named(missing)}`,
      {
        tensor: missing[0]!,
      },
    );
  }
  return { config, file, weights, layers: new Map(layers(config).map((layer) => [layer.layerName, layer])) };
}

function named(names: readonly string[]): string {
  const shown = names.slice(0, 3).map((name) => excerpt(name));
  return shown.join(', ') + (names.length > shown.length ? ', …' : '');
}

/** @throws {MismatchError} if the tensors are of a family whose models are not supported */
function baseFamilyOf(
  location: string,
  { tensors }: Pick<TensorFile, 'tensors'>,
  families: readonly Family[],
): BaseFamily {
  const family = familyOf(tensors.values(), { families });
  if (!hasBase(family)) throw otherFamily(location, family.title);
  return family;
}

function otherFamily(location: string, got: string): MismatchError {
  return new MismatchError(`${location}: expected a ${titlesOf(BASE_FAMILIES)} model, got ${got}`);
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
  return exists(file) ? file : null;
}
