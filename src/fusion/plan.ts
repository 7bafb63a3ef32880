/** What a fusion is asked to do, checked before any network runs. */
import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import { checkpointSchedule } from '../sampling/checkpoint-schedule.ts';
import { createSampler } from '../sampling/samplers/create.ts';
import { withDefaults } from '../settings.ts';
import { defaultCaptions, withEmptyPrompt } from './captions.ts';
import { type FusionConcept, type FusionConceptInput, prepareConcept } from './fusion-concept.ts';
import { checkFusionOptions, DEFAULTS, type FusionOptions } from './options.ts';
import type { FusionProgress } from './report/report.ts';
import { fusionMethod } from './solvers/method.ts';
import { nameInStage, STAGES, type Stage, stageOf } from './stage.ts';
import { latentSizeFor, type StageLayers } from './statistics/collector.ts';

export interface FuseRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  /** At least one concept, in the order in which their words are numbered. */
  readonly concepts: readonly FusionConceptInput[];
  /** What is left out takes its value from `DEFAULTS`. */
  readonly options?: Partial<FusionOptions>;
  /** Captions to preserve; the empty prompt is added. Default: the base's own list, or the shipped one. */
  readonly preserveCaptions?: readonly string[];
  /**
   * Initial noise of each concept's first denoising run, [4 · h · w], for statistics `fused`. Default: drawn from the
   * seed.
   */
  readonly noise?: readonly Float32Array[];
  /**
   * Folder where statistics `own` are kept and looked for, beside the concepts' own places. Default `null`: collected
   * anew, in memory.
   */
  readonly cacheFolder?: string | null;
  readonly onProgress?: (progress: FusionProgress) => void;
  /** Told what a user should know: names that were read off files, a cache that was set aside or cannot be written. */
  readonly onNote?: (text: string) => void;
  /** Ends the fusion by throwing its reason; what was collected is kept. */
  readonly signal?: AbortSignal;
}

/** What a request would do, before any network runs. */
export interface FusionPlan {
  readonly concepts: readonly FusionConcept[];
  readonly options: FusionOptions;
  readonly captions: readonly string[];
  readonly vocabulary: BoundVocabulary;
  /** Layers that at least one concept trains, per stage, in the base's own order. */
  readonly layers: StageLayers;
}

/**
 * Check a request and say what it would do. Reads the concepts' factors, runs no network.
 * @throws {UsageError} for impossible options, no concepts, or words used twice
 * @throws {MismatchError} for concepts that do not fit the base; {FormatError} as `checkpointSchedule`
 */
export async function planFusion(request: FuseRequest): Promise<FusionPlan> {
  const { base } = request;
  const options = withDefaults(DEFAULTS, request.options);
  checkFusionOptions(options);
  if (request.concepts.length === 0) throw new UsageError('fuse: expected at least one concept');
  const concepts: FusionConcept[] = [];
  for (const input of request.concepts) concepts.push(await prepareConcept(base, input, request.onNote));
  const vocabulary = bindConcepts(
    base.parts.tokenizers,
    concepts.map(({ concept }) => concept),
    base.parts.layers.contextCount,
  );
  await latentSizeFor(base, options);
  // Its schedule is damaged, of no kind that features can be collected with, or shorter than the steps.
  createSampler(checkpointSchedule(base), isDenoised(options) ? options.steps : 1);
  const wanted = STAGES.some((stage) => options.stages.includes(stage) && preserves(options, stage));
  const captions = wanted ? withEmptyPrompt(request.preserveCaptions ?? (await defaultCaptions(base))) : [];
  const trained = new Set(concepts.flatMap(({ concept }) => [...concept.layers.keys()]));
  const known = base.parts.layers.linear().filter(({ id }) => trained.has(id));
  const layersOf = (stage: Stage): string[] =>
    known
      .filter((layer) => options.stages.includes(stage) && stageOf(layer) === stage)
      .map(({ component, layerName }) => nameInStage(stage, component, layerName));
  const layers = { text: layersOf('text'), cross: layersOf('cross'), spatial: layersOf('spatial') };
  return { concepts, options, captions, vocabulary, layers };
}

/** Whether anything is denoised: features of the spatial stage, or pictures for distillation. */
export function isDenoised({ stages, refine }: FusionOptions): boolean {
  return stages.includes('spatial') || refine > 0;
}

/** Whether a stage needs features of the base: to be preserved, or as captions of a constrained solve. */
export function preserves({ preserve, method }: FusionOptions, stage: Stage): boolean {
  return preserve[stage] === 'auto' || preserve[stage] > 0 || methodFor(method, stage) === 'custom-diffusion';
}

/** The method that solves a stage: the chosen one where it is defined, else `normal`. */
export function methodFor(method: FusionOptions['method'], stage: Stage): FusionOptions['method'] {
  return fusionMethod(method).stages.includes(stage) ? method : 'normal';
}
