/** A concept's features, and the base's, stage by stage: which prompts, which noise, in which model. */
import { type BoundVocabulary, bindConcepts } from '../../concepts/prompt.ts';
import { UsageError } from '../../errors.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { paddedIds, plainIds } from '../../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import { crossAttentionNames } from '../../models/unet/structure.ts';
import { vaeFactor } from '../../models/vae/config.ts';
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { isGuided } from '../../sampling/guidance.ts';
import { dpmSolver } from '../../sampling/samplers/dpm-solver.ts';
import { TorchGenerator } from '../../tensor/random.ts';
import { denoisedCaptions } from '../captions.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { CollectOptions } from '../options.ts';
import { type LatentSize, latentSizeOf, PromptReader } from '../prompt-reader.ts';
import { conceptPrompts } from '../prompts.ts';
import type { Stage } from '../stage.ts';
import {
  collectCross,
  collectCrossPrior,
  collectSpatial,
  collectText,
  type DenoisingRun,
  type SpatialSettings,
  type SpatialState,
} from './collect.ts';
import { NO_STATISTICS, type StageStatistics, type Statistics } from './statistics.ts';

/** Layers whose inputs are wanted, per stage. */
export type StageLayers = Readonly<Record<Stage, readonly string[]>>;

/** A unit of work that is done: a stage's prompts, a denoising step. */
export interface CollectedUnit {
  readonly stage: Stage;
  readonly subject: string;
}

export type CollectContext = ExecutionContext<CollectedUnit>;

/** Where a collection of spatial features may go on, and where it leaves off. */
export interface Resumption {
  readonly state: SpatialState | null;
  /** Called after each step, as `SpatialSettings.onStep`. */
  readonly onStep: (state: () => SpatialState | null) => void | Promise<void>;
}

/** Denoising runs whose features speak for the base, at most, when guided; each costs as much as one of a concept. */
const GUIDED_CAPTIONS = 4;

/**
 * Seed of one denoising run: from the collection's own seed, what it draws and its number, so that a concept's noise does
 * not depend on which other concepts are fused with it. FNV-1a.
 */
function seedOf(seed: number, subject: string, run: number): number {
  let hash = 0x811c9dc5;
  for (const char of `${seed}\n${subject}\n${run}`) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x01000193);
  return hash >>> 0;
}

/**
 * Size of the latents that pictures of the options' size have; the base's own size by default.
 * @throws {UsageError} if width or height is no multiple of the VAE's factor
 */
export async function latentSizeFor(
  base: Checkpoint,
  { size }: Pick<CollectOptions, 'size'>,
): Promise<LatentSize> {
  const { blocks } = base.parts.unet.config;
  if (size === null) return latentSizeOf(base);
  const factor = vaeFactor((await base.parts.vae()).config);
  // The UNet halves the latents between its blocks, and doubles them again.
  const step = factor * 2 ** (blocks.length - 1);
  for (const side of [size.width, size.height]) {
    if (side % step !== 0) {
      throw new UsageError(
        `size: expected multiples of ${step} for this base, got ${size.width}x${size.height}`,
      );
    }
  }
  return { height: size.height / factor, width: size.width / factor };
}

/** Collects features of prompts that one vocabulary understands. */
export class Collector {
  readonly #base: Checkpoint;
  readonly #vocabulary: BoundVocabulary;
  readonly #layers: StageLayers;
  readonly #options: CollectOptions;
  readonly #reader: PromptReader;
  readonly #execution: CollectContext;

  constructor(
    base: Checkpoint,
    vocabulary: BoundVocabulary,
    layers: StageLayers,
    options: CollectOptions,
    execution: CollectContext = executionContext(),
  ) {
    this.#base = base;
    this.#vocabulary = vocabulary;
    this.#layers = layers;
    this.#options = options;
    this.#execution = execution;
    this.#reader = new PromptReader(base, vocabulary, execution);
  }

  /** Text encoder layers under a concept's prompts, in the model with these deltas. */
  async text(name: string, deltas: ModelDeltas): Promise<StageStatistics> {
    if (this.#layers.text.length === 0) return NO_STATISTICS;
    const prompts = this.#prompts(name).ids.flat();
    const found = await collectText(
      this.#base,
      this.#vocabulary.embeddingRows,
      prompts,
      deltas,
      this.#layers.text,
      this.#execution,
    );
    this.#advance('text', name);
    return found;
  }

  /** K and V under the concept's own tokens, as the text encoders with these deltas give them. */
  async cross(name: string, deltas: ModelDeltas): Promise<StageStatistics> {
    if (this.#crossLayers.length === 0) return NO_STATISTICS;
    const { ids, conceptRows } = this.#prompts(name);
    const found = await collectCross(this.#reader.encoder(deltas), ids, conceptRows, this.#crossLayers);
    this.#advance('cross', name);
    return found;
  }

  /**
   * Spatial layers while pictures of the concept are drawn.
   * @param firstNoise  noise of the first run [4 · h · w]; default: drawn from the seed
   */
  async spatial(
    name: string,
    deltas: ModelDeltas,
    firstNoise?: Float32Array,
    resumption?: Resumption,
  ): Promise<StageStatistics> {
    if (this.#layers.spatial.length === 0) return NO_STATISTICS;
    const { runs, seed } = this.#options;
    const { padded } = this.#prompts(name);
    const settings = await this.#spatialSettings();
    const encoder = this.#reader.encoder(deltas);
    const { latentSize } = settings;
    const empty = await this.#reader.noPrompt(this.#reader.encoder(), latentSize);
    const planned: DenoisingRun[] = [];
    for (let run = 0; run < runs; run++) {
      const given = run === 0 ? firstNoise : undefined;
      planned.push({
        subject: name,
        conditioning: await this.#reader.conditioning(padded[run % padded.length]!, encoder, latentSize),
        empty,
        noise: given ?? noiseFor(this.#base, settings, seedOf(seed, name, run)),
      });
    }
    return collectSpatial(
      this.#base,
      deltas,
      this.#layers.spatial,
      planned,
      {
        ...settings,
        contrast: this.#options.contrast,
        resume: resumption?.state ?? null,
        onStep: async (subject, state) => {
          await resumption?.onStep(state);
          this.#advance('spatial', subject);
        },
      },
      this.#execution,
    );
  }

  /** Text encoder layers of the base under captions; not padded: a caption's own tokens are what is to stay. */
  async textPrior(captions: readonly string[]): Promise<StageStatistics> {
    if (this.#layers.text.length === 0) return NO_STATISTICS;
    const ids = captions.map((caption) => plainIds(this.#base.parts.tokenizers, caption));
    const found = await collectText(
      this.#base,
      this.#vocabulary.embeddingRows,
      ids,
      new Map(),
      this.#layers.text,
      this.#execution,
    );
    this.#advance('text', `${captions.length} captions`);
    return found;
  }

  async crossPrior(captions: readonly string[]): Promise<StageStatistics> {
    if (this.#crossLayers.length === 0) return NO_STATISTICS;
    const ids = captions.map((caption) => paddedIds(this.#base.parts.tokenizers, caption));
    const found = await collectCrossPrior(this.#reader.encoder(), ids, this.#crossLayers);
    this.#advance('cross', `${captions.length} captions`);
    return found;
  }

  /**
   * Spatial layers of the base while it draws captions, rows as they are. Guided runs see the empty prompt beside every
   * caption, so fewer of them do.
   */
  async spatialPrior(captions: readonly string[], resumption?: Resumption): Promise<StageStatistics> {
    if (this.#layers.spatial.length === 0) return NO_STATISTICS;
    const settings = await this.#spatialSettings();
    const { latentSize } = settings;
    const empty = await this.#reader.noPrompt(this.#reader.encoder(), latentSize);
    const planned: DenoisingRun[] = [];
    for (const caption of priorCaptions(captions, this.#options)) {
      planned.push({
        subject: caption,
        conditioning: await this.#reader.conditioning(
          this.#reader.everywhere(caption),
          this.#reader.encoder(),
          latentSize,
        ),
        empty,
        noise: noiseFor(this.#base, settings, seedOf(this.#options.seed, caption, 0)),
      });
    }
    return collectSpatial(
      this.#base,
      new Map(),
      this.#layers.spatial,
      planned,
      {
        ...settings,
        contrast: null,
        resume: resumption?.state ?? null,
        onStep: async (subject, state) => {
          await resumption?.onStep(state);
          this.#advance('spatial', subject);
        },
      },
      this.#execution,
    );
  }

  get #crossLayers(): readonly string[] {
    const wanted = new Set(this.#layers.cross.map((name) => name.replace(/\.to_[kv]$/, '')));
    return wanted.size === 0 ? [] : crossAttentionNames(this.#base.parts.unet.config);
  }

  #prompts(name: string) {
    return conceptPrompts(this.#vocabulary, name, this.#options.promptTemplates);
  }

  async #spatialSettings(): Promise<Omit<SpatialSettings, 'contrast'>> {
    const config = checkpointSchedule(this.#base);
    return {
      sampler: dpmSolver(config, this.#options.steps),
      latentSize: await latentSizeFor(this.#base, this.#options),
      guidanceScale: this.#options.guidanceScale,
    };
  }

  #advance(stage: Stage, subject: string): void {
    this.#execution.signal?.throwIfAborted();
    this.#execution.progress?.({ stage, subject });
  }
}

function noiseFor(
  base: Checkpoint,
  { latentSize: { height, width } }: Pick<SpatialSettings, 'latentSize'>,
  seed: number,
): Float32Array {
  return new TorchGenerator(seed).randn(base.parts.unet.config.inChannels * height * width);
}

/** Captions that guide denoising runs of the base. */
export function priorCaptions(captions: readonly string[], { guidanceScale }: CollectOptions): string[] {
  if (!isGuided(guidanceScale)) return denoisedCaptions(captions);
  const named = denoisedCaptions(captions, GUIDED_CAPTIONS + 1).filter((caption) => caption !== '');
  return named.length === 0 ? [''] : named;
}

/** A concept in its own model, independent of all others. */
export async function collectConcept(
  base: Checkpoint,
  { name, concept, deltas }: FusionConcept,
  layers: StageLayers,
  options: CollectOptions,
  execution: CollectContext = executionContext(),
  resumption?: Resumption,
): Promise<Statistics> {
  const vocabulary = bindConcepts(base.parts.tokenizers, [concept], base.parts.layers.contextCount);
  const collector = new Collector(base, vocabulary, layers, options, execution);
  return {
    text: await collector.text(name, deltas),
    cross: await collector.cross(name, deltas),
    spatial: await collector.spatial(name, deltas, undefined, resumption),
  };
}

/** The base model under captions: what it must go on doing. */
export async function collectPrior(
  base: Checkpoint,
  captions: readonly string[],
  layers: StageLayers,
  options: CollectOptions,
  execution: CollectContext = executionContext(),
  resumption?: Resumption,
): Promise<Statistics> {
  const vocabulary = bindConcepts(base.parts.tokenizers, [], base.parts.layers.contextCount);
  const collector = new Collector(base, vocabulary, layers, options, execution);
  return {
    text: await collector.textPrior(captions),
    cross: await collector.crossPrior(captions),
    spatial: await collector.spatialPrior(captions, resumption),
  };
}
