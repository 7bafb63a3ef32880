/**
 * Where statistics come from: a file beside the concept, a file in the cache folder, or a collection now, which is then
 * kept. A collection that was cut short goes on where it stood.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Concept } from '../../concepts/concept.ts';
import { MismatchError } from '../../errors.ts';
import { hashFiles } from '../../formats/file-hash.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { textLinearLayers } from '../../models/clip/structure.ts';
import { linearLayers } from '../../models/unet/structure.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import type { CollectOptions } from '../options.ts';
import type { Participant } from '../participant.ts';
import { baseFiles, conceptFiles } from '../recipe.ts';
import { type Stage, stageOf } from '../stage.ts';
import {
  type CollectHooks,
  collectConcept,
  collectPrior,
  type Resumption,
  type StageLayers,
} from './collector.ts';
import type { Statistics } from './statistics.ts';
import {
  openPartial,
  openStatistics,
  type StatisticsRecipe,
  writePartial,
  writeStatistics,
} from './statistics-file.ts';

/** Changes when the same recipe would give other numbers. */
const VERSION = 1;

/** States are written so seldom that they take at most one part in this many of the time. */
const STATE_SHARE = 20;

/** How far the layers of a stage are covered. */
export type LayerScope = StatisticsRecipe['layers'][Stage];

export interface Collected {
  readonly statistics: Statistics;
  /** The file they lie in; `null` if they were collected now and are in memory only. */
  readonly file: string | null;
  /** Whether networks ran for them. */
  readonly fresh: boolean;
  /** A file beside the concept that was left, as it was collected in another way. */
  readonly passedOver?: string;
}

/** Platform's folder for things that can be made again: EDLORA_CACHE, XDG_CACHE_HOME/edlora, or its usual place. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env, platform = process.platform): string {
  if (env.EDLORA_CACHE) return env.EDLORA_CACHE;
  if (env.XDG_CACHE_HOME) return path.join(env.XDG_CACHE_HOME, 'edlora');
  if (platform === 'win32' && env.LOCALAPPDATA) return path.join(env.LOCALAPPDATA, 'edlora', 'cache');
  if (platform === 'darwin') return path.join(homedir(), 'Library', 'Caches', 'edlora');
  return path.join(homedir(), '.cache', 'edlora');
}

/** Where `collect` writes a concept's statistics: `<concept>.stats.safetensors` beside its file or folder. */
export function statisticsBeside({ path: location }: Concept): string {
  const { dir, name, ext } = path.parse(location);
  return path.join(dir, `${ext === '' ? path.basename(location) : name}.stats.safetensors`);
}

const isAttention = (layerName: string): boolean =>
  /\.(attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj)$/.test(layerName);

/** The narrowest scope that holds these layers. */
export function scopeOf(layers: readonly string[]): LayerScope {
  return layers.length === 0 ? 'none' : layers.every(isAttention) ? 'attention' : 'linear';
}

/** The base's layers within a scope per stage, in its own order. */
export function layersWithin(base: Checkpoint, scopes: StatisticsRecipe['layers']): StageLayers {
  const known = [
    ...[...textLinearLayers(base.textEncoder.config).keys()].map((name) => ['text_encoder', name] as const),
    ...[...linearLayers(base.unet.config).keys()].map((name) => ['unet', name] as const),
  ];
  const of = (stage: Stage): string[] =>
    known
      .filter(([component, layerName]) => stageOf({ component, layerName }) === stage)
      .map(([, layerName]) => layerName)
      .filter((name) => scopes[stage] === 'linear' || (scopes[stage] === 'attention' && isAttention(name)));
  return { text: of('text'), cross: of('cross'), spatial: of('spatial') };
}

/** Looks statistics up, and collects what is missing. */
export class StatisticsStore {
  readonly #base: Checkpoint;
  readonly #folder: string | null;
  readonly #hooks: CollectHooks;
  #identity: Promise<Pick<StatisticsRecipe, 'version' | 'base' | 'schedule'>> | undefined;

  /** @param folder for files; `null`: everything stays in memory, and files beside concepts are not looked for */
  constructor(base: Checkpoint, folder: string | null, hooks: CollectHooks = {}) {
    this.#base = base;
    this.#folder = folder;
    this.#hooks = hooks;
  }

  /**
   * A concept in its own model.
   * @throws {MismatchError} if the file beside the concept is of another base or of other weights
   * @throws {FormatError} if a statistics file is damaged
   */
  async concept(
    participant: Participant,
    scopes: StatisticsRecipe['layers'],
    options: CollectOptions,
    hooks: CollectHooks = this.#hooks,
  ): Promise<Collected> {
    const layers = layersWithin(this.#base, scopes);
    const collect = (resumption?: Resumption): Promise<Statistics> =>
      collectConcept(this.#base, participant, layers, options, hooks, resumption);
    if (this.#folder === null) return { statistics: await collect(), file: null, fresh: true };
    const recipe = await this.recipeOf(participant, scopes, options);
    const beside = await this.#beside(participant, recipe);
    if (beside?.serves === true) return { statistics: beside.statistics, file: beside.file, fresh: false };
    const found = await this.#cached(recipe, collect);
    return beside === null ? found : { ...found, passedOver: beside.file };
  }

  /** The base under captions. @throws {FormatError} if a statistics file is damaged */
  async prior(
    captions: readonly string[],
    scopes: StatisticsRecipe['layers'],
    options: CollectOptions,
    hooks: CollectHooks = this.#hooks,
  ): Promise<Collected> {
    const layers = layersWithin(this.#base, scopes);
    const collect = (resumption?: Resumption): Promise<Statistics> =>
      collectPrior(this.#base, captions, layers, options, hooks, resumption);
    if (this.#folder === null) return { statistics: await collect(), file: null, fresh: true };
    const recipe: StatisticsRecipe = {
      ...(await this.#baseIdentity()),
      subject: { kind: 'base', captions: [...captions] },
      layers: scopes,
      // A concept's prompts and the rows that weigh it do not show in the base.
      options: { ...recipeOptions(options), promptTemplates: [], runs: 1, contrast: 1 },
    };
    return this.#cached(recipe, collect);
  }

  /** Collect a concept into a file of its own, whatever else there is. */
  async collectInto(
    file: string,
    participant: Participant,
    scopes: StatisticsRecipe['layers'],
    options: CollectOptions,
  ): Promise<void> {
    const recipe = await this.recipeOf(participant, scopes, options);
    const layers = layersWithin(this.#base, scopes);
    await this.#collectTo(file, recipe, (resumption) =>
      collectConcept(this.#base, participant, layers, options, this.#hooks, resumption),
    );
  }

  async recipeOf(
    { concept, name, unetStrength, textEncoderStrength }: Participant,
    scopes: StatisticsRecipe['layers'],
    options: CollectOptions,
  ): Promise<StatisticsRecipe> {
    const files = conceptFiles(concept);
    const hashes = await hashFiles(files);
    return {
      ...(await this.#baseIdentity()),
      subject: {
        kind: 'concept',
        name,
        words: concept.tokens.map(({ word }) => word),
        unetStrength,
        textEncoderStrength,
        files: files.map((file) => hashes.get(file)!),
      },
      layers: scopes,
      options: recipeOptions(options),
    };
  }

  #baseIdentity(): Promise<Pick<StatisticsRecipe, 'version' | 'base' | 'schedule'>> {
    this.#identity ??= (async () => {
      const files = baseFiles(this.#base);
      const hashes = await hashFiles(files);
      const schedule = await checkpointSchedule(this.#base, 'DPMSolverMultistepScheduler');
      return {
        version: VERSION,
        base: files.map((file) => hashes.get(file)!),
        schedule: createHash('sha256').update(JSON.stringify(schedule)).digest('hex'),
      };
    })();
    return this.#identity;
  }

  /** The file beside a concept, if it serves; one of another base or concept is refused, one of other options left. */
  async #beside(
    { concept }: Participant,
    wanted: StatisticsRecipe,
  ): Promise<{ statistics: Statistics; file: string; serves: boolean } | null> {
    const file = statisticsBeside(concept);
    if (!existsSync(file)) return null;
    const { recipe, statistics } = await openStatistics(file);
    const again = `; collect again with edlora collect ${path.basename(concept.path)} --force, or move the file away`;
    if (recipe.base.join() !== wanted.base.join()) {
      throw new MismatchError(`${file}: collected on another base than ${this.#base.path}${again}`);
    }
    const [own, other] = [wanted.subject, recipe.subject];
    if (own.kind !== other.kind || own.kind === 'base' || other.kind === 'base') {
      throw new MismatchError(`${file}: expected statistics of a concept, got those of a base${again}`);
    }
    if (own.files.join() !== other.files.join()) {
      throw new MismatchError(
        `${file}: stale: collected from other weights than ${concept.path} has now${again}`,
      );
    }
    return { statistics, file, serves: serves(recipe, wanted) };
  }

  async #cached(
    recipe: StatisticsRecipe,
    collect: (resumption?: Resumption) => Promise<Statistics>,
  ): Promise<Collected> {
    await mkdir(this.#folder!, { recursive: true });
    for (const scopes of widerScopes(recipe.layers)) {
      const file = path.join(this.#folder!, fileName({ ...recipe, layers: scopes }));
      if (existsSync(file))
        return { statistics: (await openStatistics(file)).statistics, file, fresh: false };
    }
    const file = path.join(this.#folder!, fileName(recipe));
    await this.#collectTo(file, recipe, collect);
    // Read back, so that this fusion solves from the very numbers that a later one will.
    return { statistics: (await openStatistics(file)).statistics, file, fresh: true };
  }

  async #collectTo(
    file: string,
    recipe: StatisticsRecipe,
    collect: (resumption?: Resumption) => Promise<Statistics>,
  ): Promise<void> {
    const partial = file.replace(/(\.stats)?\.safetensors$/, '.partial.safetensors');
    const state = existsSync(partial) ? await openPartial(partial, recipe) : null;
    let [cost, last] = [0, Number.NEGATIVE_INFINITY];
    const resumption: Resumption = {
      state,
      onStep: async (current) => {
        const now = performance.now();
        if (now - last < STATE_SHARE * cost && this.#hooks.signal?.aborted !== true) return;
        await writePartial(partial, recipe, current());
        last = performance.now();
        cost = last - now;
      },
    };
    await writeStatistics(file, recipe, await collect(resumption));
    await rm(partial, { force: true });
  }
}

function recipeOptions(options: CollectOptions): StatisticsRecipe['options'] {
  const { steps, seed, promptTemplates, runs, guidanceScale, contrast, size } = options;
  return {
    steps,
    seed,
    promptTemplates: [...promptTemplates],
    runs,
    guidanceScale,
    contrast: guidanceScale === 1 ? 1 : contrast,
    size: size === null ? null : { ...size },
  };
}

/** Whether stored statistics are what is wanted, of these layers or more. */
function serves(stored: StatisticsRecipe, wanted: StatisticsRecipe): boolean {
  return widerScopes(wanted.layers).some(
    (layers) => JSON.stringify({ ...wanted, layers }) === JSON.stringify(stored),
  );
}

const ORDER: readonly LayerScope[] = ['none', 'attention', 'linear'];

/** The scopes themselves, then all that cover them. */
function widerScopes(scopes: StatisticsRecipe['layers']): StatisticsRecipe['layers'][] {
  const choices = (stage: Stage) => ORDER.slice(ORDER.indexOf(scopes[stage]));
  return choices('text').flatMap((text) =>
    choices('cross').flatMap((cross) => choices('spatial').map((spatial) => ({ text, cross, spatial }))),
  );
}

/** Speaks for people as far as a file name can; the digest tells recipes apart. */
function fileName(recipe: StatisticsRecipe): string {
  const { subject } = recipe;
  const name = subject.kind === 'base' ? 'base' : subject.name;
  const spoken = name
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-|-$/g, '')
    .slice(0, 40);
  const digest = createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 24);
  return `${spoken || 'concept'}-${digest}.stats.safetensors`;
}
