/**
 * Where statistics come from: a file beside the concept, a file in the cache folder, or a collection now, which is then
 * kept. A collection that was cut short goes on where it stood. A file is used only if it carries the recipe that is wanted;
 * a cache that is damaged, or cannot be written, costs time and is said, but changes no result.
 */

import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Concept } from '../../concepts/concept.ts';
import { EdloraError, FormatError, MismatchError } from '../../errors.ts';
import { InputFiles } from '../../formats/input-files.ts';
import { difference, type FileIdentity, identify } from '../../io/file-identity.ts';
import { makeFolder } from '../../io/replace-file.ts';
import { setAside } from '../../io/set-aside.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { executionContext } from '../../runtime/execution-context.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { CollectOptions } from '../options.ts';
import { idInStage, STAGES } from '../stage.ts';
import type { SpatialState } from './collect.ts';
import { type CollectContext, collectConcept, collectPrior, type Resumption } from './collector.ts';
import { PartialFile, sweepPartials } from './partial-files.ts';
import type { Statistics } from './statistics.ts';
import { openStatistics, type StoredStatistics, VersionError, writeStatistics } from './statistics-file.ts';
import {
  canonicalRecipe,
  type LayerScopes,
  layersWithin,
  RecipeMaker,
  type StatisticsKey,
  statisticsFileName,
  widerScopes,
} from './statistics-recipe.ts';

export { type LayerScope, layersWithin, scopeOf, scopesOf } from './statistics-recipe.ts';

/** States are written so seldom that they take at most one part in this many of the time. */
const STATE_SHARE = 20;

export interface Collected {
  readonly statistics: Statistics;
  /** The file they lie in; `null` if they were collected now and are in memory only. */
  readonly file: string | null;
  /** Whether networks ran for them. */
  readonly fresh: boolean;
  /** A file beside the concept that was left, as it was collected in another way. */
  readonly passedOver?: string;
}

export interface StoreOptions {
  /** What the job reads, to be hashed once. Default: this store's own. */
  readonly inputs?: InputFiles;
  /** Told what a user should know: files set aside, a folder that cannot be written. One sentence. */
  readonly onNote?: (text: string) => void;
}

type Collect = (resumption?: Resumption) => Promise<Statistics>;

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

/** Looks statistics up, and collects what is missing. */
export class StatisticsStore {
  readonly #base: Checkpoint;
  readonly #folder: string | null;
  /** Until the system says otherwise. */
  #writable = true;
  readonly #execution: CollectContext;
  readonly #onNote: (text: string) => void;
  readonly #inputs: InputFiles;
  readonly #recipes: RecipeMaker;
  readonly #open: StoredStatistics[] = [];

  /**
   * @param folder for files; `null`: everything stays in memory, and files beside concepts are not looked for
   */
  constructor(
    base: Checkpoint,
    folder: string | null,
    execution: CollectContext = executionContext(),
    { inputs = new InputFiles(), onNote = () => undefined }: StoreOptions = {},
  ) {
    this.#base = base;
    this.#folder = folder;
    this.#execution = execution;
    this.#onNote = onNote;
    this.#inputs = inputs;
    this.#recipes = new RecipeMaker(base, inputs);
  }

  /** Give back the files that statistics were found in; those cannot be read any more. */
  close(): void {
    for (const { close } of this.#open.splice(0)) close();
  }

  /**
   * A concept in its own model.
   * @throws {MismatchError} if the file beside the concept is of another base or of other weights
   * @throws {FormatError} if that file is damaged, or an input has changed since it was opened
   */
  async concept(
    concept: FusionConcept,
    scopes: LayerScopes,
    options: CollectOptions,
    execution: CollectContext = this.#execution,
  ): Promise<Collected> {
    const layers = layersWithin(this.#base, scopes);
    const collect: Collect = (resumption) =>
      collectConcept(this.#base, concept, layers, options, execution, resumption);
    if (this.#folder === null) return this.#inMemory(collect);
    const recipe = await this.recipeOf(concept, scopes, options);
    const beside = await this.#beside(concept, recipe);
    if (beside?.serves === true) return { statistics: beside.statistics, file: beside.file, fresh: false };
    const found: Collected = await this.#cached(recipe, collect);
    return beside === null ? found : { ...found, passedOver: beside.file };
  }

  /** The base under captions. @throws {FormatError} if an input has changed since it was opened */
  async prior(
    captions: readonly string[],
    scopes: LayerScopes,
    options: CollectOptions,
    execution: CollectContext = this.#execution,
  ): Promise<Collected> {
    const layers = layersWithin(this.#base, scopes);
    const collect: Collect = (resumption) =>
      collectPrior(this.#base, captions, layers, options, execution, resumption);
    if (this.#folder === null) return this.#inMemory(collect);
    return this.#cached(await this.#recipes.ofBase(captions, scopes, options), collect);
  }

  /** Whether no network would run for a concept. @throws as `concept` */
  async holds(concept: FusionConcept, scopes: LayerScopes, options: CollectOptions): Promise<boolean> {
    if (this.#folder === null) return false;
    const recipe = await this.recipeOf(concept, scopes, options);
    return (await this.#beside(concept, recipe))?.serves === true || this.#isCached(recipe);
  }

  /** Whether no network would run for the base under captions. @throws as `prior` */
  async holdsPrior(
    captions: readonly string[],
    scopes: LayerScopes,
    options: CollectOptions,
  ): Promise<boolean> {
    return this.#folder !== null && this.#isCached(await this.#recipes.ofBase(captions, scopes, options));
  }

  /**
   * Collect a concept into a file of its own, whatever else there is.
   * @throws {EdloraError} if it cannot be written; {FormatError} if an input has changed since it was opened
   */
  async collectInto(
    file: string,
    concept: FusionConcept,
    scopes: LayerScopes,
    options: CollectOptions,
  ): Promise<void> {
    const recipe = await this.recipeOf(concept, scopes, options);
    const layers = layersWithin(this.#base, scopes);
    await this.#collectTo(file, recipe, (resumption) =>
      collectConcept(this.#base, concept, layers, options, this.#execution, resumption),
    );
  }

  /** What statistics of a concept are made of. @throws {FormatError} as `concept` */
  recipeOf(concept: FusionConcept, scopes: LayerScopes, options: CollectOptions): Promise<StatisticsKey> {
    return this.#recipes.ofConcept(concept, scopes, options);
  }

  async #inMemory(collect: Collect): Promise<Collected> {
    const statistics = await collect();
    this.#inputs.check();
    return { statistics, file: null, fresh: true };
  }

  /** The file beside a concept, if it serves; one of another base or concept is refused, one of other options left. */
  async #beside(
    { concept }: FusionConcept,
    wanted: StatisticsKey,
  ): Promise<
    { statistics: Statistics; file: string; serves: true } | { file: string; serves: false } | null
  > {
    const file = statisticsBeside(concept);
    if (!existsSync(file)) return null;
    let stored: StoredStatistics;
    try {
      stored = await openStatistics(file);
    } catch (error) {
      if (error instanceof VersionError) return { file, serves: false };
      throw error;
    }
    this.#open.push(stored);
    const { recipe, statistics } = stored;
    const again = `; collect again with \`collectStatistics\` and \`force\`, or move the file away`;
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
    if (!widerScopes(wanted.layers).some((layers) => isOf(recipe, { ...wanted, layers }))) {
      return { file, serves: false };
    }
    this.#checkCoverage(file, stored);
    return { statistics, file, serves: true };
  }

  async #cached(recipe: StatisticsKey, collect: Collect): Promise<Collected> {
    for (const layers of widerScopes(recipe.layers)) {
      const wanted = { ...recipe, layers };
      const file = path.join(this.#folder!, statisticsFileName(wanted));
      const stored = await this.#openCached(file, wanted);
      if (stored === null) continue;
      sweepPartials(file);
      return { statistics: stored.statistics, file, fresh: false };
    }
    const file = path.join(this.#folder!, statisticsFileName(recipe));
    if (!this.#writable || !(await this.#keepable(() => makeFolder(this.#folder!))))
      return this.#inMemory(collect);
    const statistics = await this.#collectTo(file, recipe, collect, (write) => this.#keepable(write));
    // Read back, so that this fusion solves from the very numbers that a later one will.
    const stored = this.#writable ? await this.#openCached(file, recipe) : null;
    if (stored === null) return { statistics, file: null, fresh: true };
    sweepPartials(file);
    return { statistics: stored.statistics, file, fresh: true };
  }

  #isCached(recipe: StatisticsKey): boolean {
    return widerScopes(recipe.layers).some((layers) =>
      existsSync(path.join(this.#folder!, statisticsFileName({ ...recipe, layers }))),
    );
  }

  /** A file of the cache, if it is there and what its name says; any other is set aside. */
  async #openCached(file: string, wanted: StatisticsKey): Promise<StoredStatistics | null> {
    const found = identityOf(file);
    if (found === null) return null;
    let why = 'collected in another way than its name says';
    try {
      const stored = await openStatistics(file);
      this.#open.push(stored);
      if (isOf(stored.recipe, wanted)) {
        this.#checkCoverage(file, stored);
        return stored;
      }
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      why = error.message.replace(`${error.file}: `, '');
    }
    const now = identityOf(file);
    // Another process with the same job was quicker.
    if (now === null || difference(found, now) !== null) return this.#openCached(file, wanted);
    const aside = setAside(file);
    this.#note(
      `${file}: cannot be used (${why}); ${aside === null ? 'it cannot be moved away either' : `set aside as ${path.basename(aside)}`}, collected again`,
    );
    return null;
  }

  /** @throws {FormatError} if statistics lack a layer that they say they cover, or have one of another width */
  #checkCoverage(file: string, { recipe, statistics, sizeOf }: StoredStatistics): void {
    const layers = layersWithin(this.#base, recipe.layers);
    for (const stage of STAGES) {
      for (const layerName of layers[stage]) {
        const width = this.#base.parts.layers.get(idInStage(stage, layerName))!.n;
        const input = statistics[stage].inputOf.get(layerName);
        const size = input === undefined ? undefined : sizeOf(stage, input);
        if (size === width) continue;
        throw new FormatError(
          file,
          `${stage} ${layerName}: expected inputs of width ${width}, got ${size ?? 'none'}`,
        );
      }
    }
  }

  /**
   * Collect, keeping the state on the way and the result at the end.
   * @param keep runs each step of writing and says whether it went well; default: failures are the caller's
   */
  async #collectTo(
    file: string,
    recipe: StatisticsKey,
    collect: Collect,
    keep?: (write: () => Promise<void>) => Promise<boolean>,
  ): Promise<Statistics> {
    const partial = await PartialFile.takeUp(file, recipe, (text) => this.#note(text));
    let [cost, last] = [0, Number.NEGATIVE_INFINITY];
    let stateful = true;
    // Of the last step that is done, while it is not written.
    let unwritten: (() => SpatialState | null) | null = null;
    const resumption: Resumption = {
      state: partial.state,
      onStep: async (current) => {
        const now = performance.now();
        if (!stateful) return;
        unwritten = current;
        if (now - last < STATE_SHARE * cost && this.#execution.signal?.aborted !== true) return;
        stateful = await this.#stateKept(file, () => partial.write(current()!));
        unwritten = null;
        last = performance.now();
        cost = last - now;
      },
    };
    try {
      const statistics = await collect(resumption);
      this.#inputs.check();
      const write = () => writeStatistics(file, recipe, statistics);
      if (keep === undefined) await write();
      else await keep(write);
      partial.finish();
      return statistics;
    } catch (error) {
      // The step after it was ended in its middle.
      const state = (unwritten as (() => SpatialState | null) | null)?.() ?? null;
      if (state !== null && error === this.#execution.signal?.reason) {
        await this.#stateKept(file, () => partial.write(state));
      }
      partial.release();
      throw error;
    }
  }

  /** A state that cannot be kept costs a later run its time, but not this one its result. */
  async #stateKept(file: string, write: () => Promise<void>): Promise<boolean> {
    try {
      await write();
      return true;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.#note(
        `${(error as Error).message}; ${path.basename(file)} is collected without keeping its state`,
      );
      return false;
    }
  }

  /** A cache that cannot be written is given up. @returns whether the step went well */
  async #keepable(write: () => Promise<void>): Promise<boolean> {
    try {
      await write();
      return true;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.#note(
        `${(error as Error).message}; statistics are kept in memory only (\`cacheFolder\` names another folder)`,
      );
      this.#writable = false;
      return false;
    }
  }

  #note(text: string): void {
    this.#onNote(text);
  }
}

/** Whether the system refused to write, for reasons of its own. */
function isRefusal(error: unknown): boolean {
  // Its subclasses speak of what was to be written, not of where.
  return error instanceof EdloraError && error.name === 'EdloraError';
}

function identityOf(file: string): FileIdentity | null {
  try {
    return identify(file);
  } catch {
    return null;
  }
}

const isOf = (stored: StatisticsKey, wanted: StatisticsKey): boolean =>
  canonicalRecipe(stored) === canonicalRecipe(wanted);
