/**
 * Mix-of-Show's option files for single concepts, as they are: every key is used, named as having no effect here, or
 * named as unknown.
 * Source: TencentARC/Mix-of-Show, options/train/EDLoRA, train_edlora.py, mixofshow/data/pil_transform.py.
 */

import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { FormatError } from '../errors.ts';
import { excerpt, jsonExcerpt } from '../formats/excerpt.ts';
import { MAX_CONFIG_BYTES, readJsonFile } from '../formats/json-file.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { infoOf } from '../io/file-info.ts';
import type { TrainingInput } from './options.ts';

/**
 * Their networks, by `network_g.type` of the first layout or `models.enable_edlora` of the second, and what stands for
 * them here. Theirs multiply factors by alpha alone.
 */
const NETWORKS: Readonly<Record<string, TrainingInput['method']>> = {
  EDLoRA: 'ed-lora',
  LoRA: 'lora',
  Custom_Diffusion: 'custom-diffusion',
};

/** Of their factors where the file names none. */
const THEIR_RANK = 4;
/** In the name of every layer of the text encoder. */
const TEXT_LAYERS = 'text_model';

/** What a training file says. */
export interface TrainingFile {
  readonly settings: Partial<TrainingInput>;
  /** Path of the base model; null if it says none. */
  readonly base: string | null;
  /** What was read over, and why. */
  readonly notes: readonly string[];
}

const conceptList = z
  .array(
    z.looseObject({
      instance_prompt: z.string().default('<TOK>'),
      instance_data_dir: z.string(),
      caption_dir: z.string().optional(),
      mask_dir: z.string().optional(),
      class_prompt: z.string().optional(),
      class_data_dir: z.string().optional(),
    }),
  )
  .min(1);

/** Their own files have some twenty keys without a counterpart. */
const MAX_NOTES = 100;

/** Is this parsed YAML one of their option files? */
export function isMixOfShow(value: unknown): value is Record<string, unknown> {
  return (
    value !== null &&
    typeof value === 'object' &&
    'datasets' in value &&
    ('models' in value || 'network_g' in value)
  );
}

/** Keys without a counterpart here, with the reason. */
const WITHOUT_EFFECT: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [/^(name|num_gpu|model_type|path|dist_params)(\.|$)/, 'belongs to their program'],
  [/^mixed_precision$/, 'training runs in float32'],
  [/enable_xformers$/, 'attention is fused anyway'],
  [/^(val|logger)(\.|$)|^datasets\.val/, 'sample pictures are set with `sampleEvery`'],
  [
    /^datasets\.train\.(name|type|use_shuffle|num_worker_per_gpu|pin_memory|prefetch_mode|use_caption|use_mask)$/,
    'follows from the folder',
  ],
  [/^(models|network_g)\.(sd_version|test_sampler_type)$/, 'follows from the base'],
  [/^network_g\.finetune_params$/, 'follows from the method'],
  [/^train\.optim_g\.(type|lr|betas)$/, 'AdamW with betas 0.9 and 0.999, rates per group'],
  [
    /^train\.(total_iter|warmup_iter|drop_start_iter|scheduler(\..*)?)$/,
    'their program does not read it either',
  ],
];

/**
 * @param value the parsed file
 * @param file  its path, for relative paths and messages
 * @throws {FormatError} if a value is not of its kind, or the list of pictures cannot be read
 */
export async function readMixOfShow(value: Record<string, unknown>, file: string): Promise<TrainingFile> {
  const flat = new Map<string, unknown>();
  flatten(value, '', flat);
  const used = new Set<string>();
  const take = <T>(schema: z.ZodType<T>, ...keys: string[]): T | undefined => {
    const key = keys.find((candidate) => flat.has(candidate));
    if (key === undefined) return undefined;
    used.add(key);
    const given = flat.get(key);
    if (given === null) return undefined;
    const parsed = safeParse(schema, given);
    if (!parsed.success) {
      throw new FormatError(file, `${key}: expected another kind of value, got ${jsonExcerpt(given)}`);
    }
    return parsed.data;
  };
  const either = (name: string): string[] => [`models.${name}`, `network_g.${name}`];
  const written = z.string().trim().min(1).max(40).transform(Number).pipe(z.number());
  const [number, text, flag] = [z.union([z.number(), written]), z.string(), z.boolean()];
  const rate = (part: string): number | undefined => {
    const tuned = take(flag, ...either(`finetune_cfg.${part}.enable_tuning`));
    const own = take(number, ...either(`finetune_cfg.${part}.lr`));
    return tuned === false ? 0 : own;
  };
  const perLora = <T>(schema: z.ZodType<T>, name: string): (T | undefined)[] =>
    ['unet', 'text_encoder'].map((part) => take(schema, ...either(`finetune_cfg.${part}.lora_cfg.${name}`)));
  const where = (name: string | undefined): 'attention' | 'transformer' | undefined =>
    name === undefined ? undefined : /Attention$/.test(name) ? 'attention' : 'transformer';

  const listed = take(text, 'datasets.train.concept_list');
  const data = listed === undefined ? {} : await pictures(near(listed, file));
  const mapping = [...flat].filter(([key]) => key.startsWith('datasets.train.replace_mapping.'));
  for (const [key] of mapping) used.add(key);
  const transforms = take(z.array(z.looseObject({ type: text })), 'datasets.train.instance_transform') ?? [];
  const batch = take(number, 'datasets.train.batch_size_per_gpu') ?? 1;
  const accumulate = take(number, 'gradient_accumulation_steps') ?? 1;
  const gpus = take(number, 'num_gpu') ?? 1;
  const repeats = take(number, 'datasets.train.dataset_enlarge_ratio');
  const ranks = perLora(number, 'rank');
  const [unetWhere, textWhere] = perLora(text, 'where');
  const base = take(text, ...either('pretrained_path')) ?? null;
  const method = methodOf(file, take(text, 'network_g.type'), take(flag, ...either('enable_edlora')));
  // The first layout has its masks always on, and says how long and by which schedule.
  const first = flat.has('network_g.type');
  const steps = first ? take(number, 'train.total_iter') : undefined;
  const schedule = first ? take(text, 'train.scheduler.type') : undefined;
  const masked = take(flag, ...either('use_mask_loss')) ?? first;
  const stepCount =
    repeats === undefined || data.data === undefined
      ? undefined
      : Math.max(1, Math.floor((countPictures(data.data) * repeats) / (batch * gpus * accumulate)));
  const alphas = perLora(number, 'alpha');
  const rank = ranks[0] ?? ranks[1];
  // Ours divides by the rank for this method.
  const alphaOf = (part: 0 | 1): number | undefined =>
    method === 'lora' ? (alphas[part] ?? 1) * (ranks[part] ?? rank ?? THEIR_RANK) : alphas[part];
  const alpha = alphaOf(ranks[0] === undefined ? 1 : 0);
  const otherRank = ranks[1] !== rank ? ranks[1] : undefined;
  const otherAlpha = ranks[1] !== undefined && alphaOf(1) !== alpha ? alphaOf(1) : undefined;
  // Custom Diffusion has one rate for the word and the weights, times the pictures of a step where they scale it.
  const whole = method === 'custom-diffusion' ? take(number, 'train.optim_g.lr') : undefined;
  const scaled = take(flag, 'train.optim_g.scale_lr') === true ? batch * gpus : 1;
  const rateOfAll = whole === undefined ? undefined : whole * scaled;
  const prior = take(flag, 'datasets.train.with_prior_preservation') ?? false;
  const priorWeight = take(number, 'network_g.prior_loss_weight');
  const settings: Partial<TrainingInput> = {
    ...data,
    method,
    token: take(text, ...either('new_concept_token'), 'network_g.modifier_token'),
    init: take(text, ...either('initializer_token')),
    seed: take(number, 'manual_seed'),
    steps: steps ?? stepCount,
    // One process stands for all their cards.
    batch: batch * gpus,
    accumulate,
    lrEmbedding: rateOfAll ?? rate('text_embedding'),
    lrText: rate('text_encoder'),
    lrUnet: rateOfAll ?? rate('unet'),
    rank,
    alpha,
    rankPattern: otherRank === undefined ? undefined : { [TEXT_LAYERS]: otherRank },
    alphaPattern: otherAlpha === undefined ? undefined : { [TEXT_LAYERS]: otherAlpha },
    layers: where(unetWhere),
    textLayers: where(textWhere),
    noiseOffset: take(number, ...either('noise_offset')),
    attentionWeight: take(number, ...either('attn_reg_weight')),
    fullIdentity: take(flag, ...either('reg_full_identity')),
    masks: masked ? data.masks : 'none',
    checkpointBlocks: take(flag, ...either('gradient_checkpoint')),
    weightDecay: take(number, 'train.optim_g.weight_decay'),
    kvDrop: take(number, 'train.unet_kv_drop_rate'),
    normStop: take(number, 'train.emb_norm_threshold'),
    kdeWeight: take(number, 'train.kde_opt.loss_weight'),
    kdeBandwidth: take(number, 'train.kde_opt.bandwidth'),
    maxGradNorm: take(number, 'train.max_grad_norm'),
    schedule: schedule === 'ConstantLR' ? 'constant' : 'linear',
    resolution: take(number, 'datasets.train.size'),
    flip: take(flag, 'datasets.train.hflip'),
    cropMode: take(flag, 'datasets.train.center_crop') === true ? 'centre' : undefined,
    classImages: take(number, 'datasets.train.num_class_images'),
    priorWeight: prior || method !== 'custom-diffusion' ? priorWeight : 0,
    ...transformSettings(transforms),
  };
  take(text, 'train.kde_opt.type');
  // The attention term needs masks even where the loss does not use them.
  if ((settings.attentionWeight ?? 0) > 0 && settings.masks === 'none') settings.masks = data.masks ?? 'auto';
  const notes = [...flat.keys()]
    .filter((key) => !used.has(key))
    .map((key) => {
      const reason = WITHOUT_EFFECT.find(([pattern]) => pattern.test(key))?.[1];
      const name = excerpt(key);
      return reason === undefined ? `${name}: unknown key, read over` : `${name}: no effect; ${reason}`;
    });
  if (notes.length > MAX_NOTES) {
    notes.splice(MAX_NOTES, notes.length, `and ${notes.length - MAX_NOTES} more keys without effect`);
  }
  notes.push(
    ...transforms
      .filter(({ type }) => !TRANSFORMS.has(type))
      .map(({ type }) => `instance_transform ${type}: not done here; pictures are resized and cropped`),
  );
  const given = Object.entries(settings).filter(([, setting]) => setting !== undefined);
  return { settings: Object.fromEntries(given), base: base === null ? null : near(base, file), notes };
}

/** Transforms with a counterpart, or that every picture gets. */
const TRANSFORMS = new Set([
  'Resize',
  'RandomCrop',
  'CenterCrop',
  'ToTensor',
  'Normalize',
  'ShuffleCaption',
  'EnhanceText',
  'PairRandomHorizontalFlip',
  'RandomHorizontalFlip',
]);

function transformSettings(
  transforms: readonly { type: string; [key: string]: unknown }[],
): Partial<TrainingInput> {
  const settings: Partial<TrainingInput> = {};
  for (const { type, ...values } of transforms) {
    if (typeof values.size === 'number') settings.resolution = values.size;
    if (type === 'CenterCrop') settings.cropMode = 'centre';
    if (type.endsWith('HorizontalFlip')) settings.flip = true;
    if (type === 'EnhanceText') settings.templates = values.enhance_type === 'style' ? 'style' : 'object';
    if (type === 'ShuffleCaption') {
      settings.shuffleCaptions = true;
      if (typeof values.keep_token_num === 'number') settings.keepParts = values.keep_token_num;
    }
  }
  return settings;
}

/** @throws {FormatError} for a network that has no counterpart */
function methodOf(
  file: string,
  network: string | undefined,
  layerwise: boolean | undefined,
): TrainingInput['method'] {
  if (network === undefined) return layerwise === false ? 'lora' : 'ed-lora';
  const method = Object.hasOwn(NETWORKS, network) ? NETWORKS[network] : undefined;
  if (method === undefined) {
    throw new FormatError(
      file,
      `network_g.type: expected ${Object.keys(NETWORKS).join(', ')}, got ${excerpt(network)}, which is not trained here`,
    );
  }
  return method;
}

/** Their list of folders; more than one would be several concepts. */
async function pictures(file: string): Promise<Partial<TrainingInput>> {
  const json = await readJsonFile(file, MAX_CONFIG_BYTES, 'a JSON list of folders');
  const parsed = safeParse(conceptList, json);
  if (!parsed.success)
    throw new FormatError(
      file,
      `expected instance_data_dir and instance_prompt: ${parsed.error.issues[0]!.message}`,
    );
  if (parsed.data.length > 1)
    throw new FormatError(
      file,
      `expected one folder, got ${parsed.data.length}; train one concept at a time`,
    );
  const { instance_prompt, instance_data_dir, caption_dir, mask_dir, class_prompt, class_data_dir } =
    parsed.data[0]!;
  return {
    data: near(instance_data_dir, file),
    prompt: instance_prompt,
    ...(caption_dir === undefined ? {} : { captionFolder: near(caption_dir, file) }),
    ...(mask_dir === undefined ? {} : { masks: near(mask_dir, file) }),
    classPrompt: class_prompt,
    ...(class_data_dir === undefined ? {} : { classData: near(class_data_dir, file) }),
  };
}

function countPictures(folder: string): number {
  if (!infoOf(folder)?.isDirectory()) return 1;
  return readdirSync(folder).filter((name) => /\.(png|jpe?g|jfif|webp)$/i.test(name) && !/_mask\./.test(name))
    .length;
}

/** Their paths start at the working folder; one beside the file is found too. */
function near(location: string, file: string): string {
  const beside = path.resolve(path.dirname(file), location);
  return !existsSync(location) && existsSync(beside) ? beside : path.resolve(location);
}

function flatten(value: unknown, prefix: string, into: Map<string, unknown>): void {
  for (const [key, inner] of Object.entries(value as Record<string, unknown>)) {
    const name = prefix === '' ? key : `${prefix}.${key}`;
    if (inner !== null && typeof inner === 'object' && !Array.isArray(inner)) flatten(inner, name, into);
    else into.set(name, inner);
  }
}
