/**
 * What statistics were collected from, and how: everything that their numbers depend on. Two equal recipes give the same
 * numbers; a file is named by its recipe, carries it, and is used for no other.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { bindConcepts } from '../../concepts/prompt.ts';
import type { InputFiles } from '../../formats/input-files.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { type PromptIds, paddedIds, plainIds, type TokenIds } from '../../models/families/prompt-ids.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { isGuided } from '../../sampling/guidance.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { CollectOptions } from '../options.ts';
import { type LatentSize, timeIdsOfLatents } from '../prompt-reader.ts';
import { conceptPrompts } from '../prompts.ts';
import { addBase, addConcept, baseFiles, conceptFiles } from '../recipe.ts';
import { nameInStage, STAGES, type Stage, stageOf } from '../stage.ts';
import { latentSizeFor, priorCaptions, type StageLayers } from './collector.ts';

/** Changes when the same recipe would give other numbers, or is told in another way. */
export const RECIPE_VERSION = 2;

/** Texts of a recipe, at most; real ones have some dozens. */
const MAX_TEXTS = 10_000;
/** Layers, inputs and files of one header; a model has some hundreds. */
export const MAX_ENTRIES = 100_000;

/** 64 hexadecimal digits. */
const sha256 = z.string().max(64);
const texts = z.array(z.string()).max(MAX_TEXTS);
const whole = (least: number) => z.number().int().min(least);

export const recipeSchema = z.object({
  version: z.literal(RECIPE_VERSION),
  /** sha256 of the base's text encoder and UNet files, in that order. */
  base: z.array(sha256).max(MAX_TEXTS),
  /** sha256 of the networks' configurations and the size of the latents. */
  networks: sha256,
  /** sha256 of the noise schedule. */
  schedule: sha256,
  /** sha256 of what the UNet reads beside text and timestep: sizes, and what stands for no prompt. */
  beside: sha256.optional(),
  subject: z.discriminatedUnion('kind', [
    z.object({
      kind: z.literal('concept'),
      name: z.string(),
      words: texts,
      unetStrength: z.number(),
      textEncoderStrength: z.number(),
      /** sha256 of its files. */
      files: z.array(sha256).max(MAX_TEXTS),
      /** sha256 of what its files do not tell: layers with their ranks and scales. */
      layers: sha256,
      /** sha256 of the token ids of its prompts. */
      tokens: sha256,
    }),
    z.object({ kind: z.literal('base'), captions: texts, tokens: sha256 }),
  ]),
  /** Which layers of each stage: those of attentions, or every linear layer. */
  layers: z.record(z.enum(STAGES), z.enum(['none', 'attention', 'linear'])),
  options: z.object({
    steps: whole(1),
    seed: z.number().int(),
    promptTemplates: texts,
    runs: whole(1),
    guidanceScale: z.number(),
    contrast: z.number(),
    size: z.object({ width: whole(1), height: whole(1) }).nullable(),
  }),
});

export type StatisticsKey = z.infer<typeof recipeSchema>;

/** How far the layers of each stage are covered. */
export type LayerScopes = StatisticsKey['layers'];
export type LayerScope = LayerScopes[Stage];

const isAttention = (layerName: string): boolean =>
  /\.(attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj)$/.test(layerName);

/** The narrowest scope that holds these layers. */
export function scopeOf(layers: readonly string[]): LayerScope {
  return layers.length === 0 ? 'none' : layers.every(isAttention) ? 'attention' : 'linear';
}

/** How much of each stage statistics have to cover. */
export function scopesOf({ text, cross, spatial }: StageLayers): LayerScopes {
  return { text: scopeOf(text), cross: scopeOf(cross), spatial: scopeOf(spatial) };
}

/** The base's layers within a scope per stage, in its own order. */
export function layersWithin(base: Checkpoint, scopes: LayerScopes): StageLayers {
  const known = base.parts.layers.linear();
  const of = (stage: Stage): string[] =>
    known
      .filter((layer) => stageOf(layer) === stage)
      .map(({ component, layerName }) => nameInStage(stage, component, layerName))
      .filter((name) => scopes[stage] === 'linear' || (scopes[stage] === 'attention' && isAttention(name)));
  return { text: of('text'), cross: of('cross'), spatial: of('spatial') };
}

const ORDER: readonly LayerScope[] = ['none', 'attention', 'linear'];

/** The scopes themselves, then all that cover them. */
export function widerScopes(scopes: LayerScopes): LayerScopes[] {
  const choices = (stage: Stage) => ORDER.slice(ORDER.indexOf(scopes[stage]));
  return choices('text').flatMap((text) =>
    choices('cross').flatMap((cross) => choices('spatial').map((spatial) => ({ text, cross, spatial }))),
  );
}

/** Describes collections on one base; files are hashed once. */
export class RecipeMaker {
  readonly #base: Checkpoint;
  readonly #inputs: InputFiles;

  /** @param inputs what the job reads; the base's files and those of each concept are added to it */
  constructor(base: Checkpoint, inputs: InputFiles) {
    this.#base = base;
    this.#inputs = inputs;
    addBase(inputs, base);
  }

  /** @throws {FormatError} if a file cannot be read or has changed; {UsageError} for a size that cannot be */
  async ofConcept(
    { concept, name, unetStrength, textEncoderStrength }: FusionConcept,
    layers: LayerScopes,
    options: CollectOptions,
  ): Promise<StatisticsKey> {
    const files = conceptFiles(concept);
    addConcept(this.#inputs, concept);
    return {
      ...(await this.#common(layers, recipeOptions(options), options)),
      subject: {
        kind: 'concept',
        name,
        words: concept.tokens.map(({ word }) => word),
        unetStrength,
        textEncoderStrength,
        files: await this.#hashesOf(files),
        layers: digestOf([...concept.layers].map(([key, { rank, scale }]) => [key, rank, scale])),
        tokens: digestOf(this.#tokensOf({ concept, name }, options)),
      },
    };
  }

  /** @throws as `ofConcept` */
  async ofBase(
    captions: readonly string[],
    layers: LayerScopes,
    options: CollectOptions,
  ): Promise<StatisticsKey> {
    const { tokenizers } = this.#base.parts;
    const tokens = captions.map((caption) => [
      told(plainIds(tokenizers, caption)),
      told(paddedIds(tokenizers, caption)),
    ]);
    // A concept's prompts and the rows that weigh it do not show in the base.
    const own = { ...recipeOptions(options), promptTemplates: [], runs: 1, contrast: 1 };
    return {
      ...(await this.#common(layers, own, options)),
      subject: {
        kind: 'base',
        captions: [...captions],
        tokens: digestOf([tokens, priorCaptions(captions, options), told(paddedIds(tokenizers, ''))]),
      },
    };
  }

  async #common(layers: LayerScopes, own: StatisticsKey['options'], options: CollectOptions) {
    const networks = this.#base.parts.changeable().map(([, { config }]) => config);
    const schedule = checkpointSchedule(this.#base);
    const latents = await latentSizeFor(this.#base, options);
    const beside = await this.#beside(latents);
    return {
      version: RECIPE_VERSION,
      base: await this.#hashesOf(baseFiles(this.#base)),
      networks: digestOf([...networks.toReversed(), latents.height, latents.width]),
      // What only PNDM reads counts for nothing here, but statistics of earlier versions are known by it.
      schedule: digestOf({ ...schedule, skipPrkSteps: this.#base.schedule.config.skip_prk_steps === true }),
      ...(beside === null ? {} : { beside }),
      layers,
      options: own,
    } as const;
  }

  /** What the UNet reads beside text and timestep; `null` in families whose UNet reads nothing else. */
  async #beside(latents: LatentSize): Promise<string | null> {
    const { zerosForNoPrompt } = this.#base;
    const timeIds = await timeIdsOfLatents(this.#base, latents);
    if (timeIds === undefined && !zerosForNoPrompt) return null;
    return digestOf({ zerosForNoPrompt, timeIds: [...(timeIds?.data ?? [])] });
  }

  async #hashesOf(files: readonly string[]): Promise<string[]> {
    const hashes = await this.#inputs.hashes(files);
    return files.map((file) => hashes.get(file)!);
  }

  /** What the tokenizer makes of a concept's prompts, and of the empty one. */
  #tokensOf(
    { concept, name }: Pick<FusionConcept, 'concept' | 'name'>,
    { promptTemplates }: CollectOptions,
  ): unknown {
    const { tokenizers, layers } = this.#base.parts;
    const vocabulary = bindConcepts(tokenizers, [concept], layers.contextCount);
    const { ids, padded, conceptRows } = conceptPrompts(vocabulary, name, promptTemplates);
    const each = (prompts: readonly (readonly PromptIds[])[]) => prompts.map((layers) => layers.map(told));
    return [each(ids), each(padded), ids.flat().map(conceptRows), told(paddedIds(tokenizers, ''))];
  }
}

function recipeOptions(options: CollectOptions): StatisticsKey['options'] {
  const { steps, seed, promptTemplates, runs, guidanceScale, contrast, size } = options;
  const guided = isGuided(guidanceScale);
  return {
    steps,
    seed,
    promptTemplates: [...promptTemplates],
    runs,
    guidanceScale: guided ? guidanceScale : 1,
    contrast: guided ? contrast : 1,
    size: size === null ? null : { width: size.width, height: size.height },
  };
}

/** Ids as recipes tell them: those of a single text encoder alone. */
const told = (ids: PromptIds): PromptIds | TokenIds => (ids.length === 1 ? ids[0]! : ids);

const digestOf = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex');

/** Text by which recipes are compared and named: the order in which somebody wrote its fields does not matter. */
export function canonicalRecipe(recipe: StatisticsKey): string {
  return JSON.stringify(recipe, (_, value: unknown) =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}

/** Name in the cache: speaks for people as far as a file name can; the digest tells recipes apart. */
export function statisticsFileName(recipe: StatisticsKey): string {
  const { subject } = recipe;
  const name = subject.kind === 'base' ? 'base' : subject.name;
  const spoken = name
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-|-$/g, '')
    .slice(0, 40);
  const digest = createHash('sha256').update(canonicalRecipe(recipe)).digest('hex').slice(0, 24);
  return `${spoken || 'concept'}-${digest}.stats.safetensors`;
}
