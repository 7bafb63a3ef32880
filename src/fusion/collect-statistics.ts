/** Collecting ahead of fusions: a concept's statistics into a file of its own. */

import { statSync } from 'node:fs';
import path from 'node:path';
import { UsageError } from '../errors.ts';
import { checkFileTarget } from '../io/targets.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { SubjectProgress } from '../progress.ts';
import { type ExecutionRequest, executionContext } from '../runtime/execution-context.ts';
import { type FusionConcept, type FusionConceptInput, prepareConcept } from './fusion-concept.ts';
import { type CollectOptions, checkCollectOptions, DEFAULTS } from './options.ts';
import { baseFiles, conceptFiles } from './recipe.ts';
import { STAGES, type Stage, stageOf } from './stage.ts';
import type { CollectedUnit } from './statistics/collector.ts';
import {
  type LayerScope,
  StatisticsStore,
  scopeOf,
  statisticsBeside,
} from './statistics/statistics-store.ts';

export interface CollectRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  readonly concepts: readonly FusionConceptInput[];
  /** File for the statistics of a single concept. Default: beside each concept, where `fuse` finds them. */
  readonly out?: string;
  /** How features are collected; default as `fuse` does. */
  readonly options?: Partial<CollectOptions>;
  /** At least these layers: `linear` for a fusion with concepts that train more than this one. Default: all attentions. */
  readonly layers?: LayerScope;
  /** Collect again where the file is there already. Default false. */
  readonly force?: boolean;
  /** Its reason is thrown at the next step once it is aborted; what was collected is kept, and the same call goes on there. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: CollectProgress) => void;
  /** Told what a user should know: files set aside, a folder that cannot be written. */
  readonly onNote?: (text: string) => void;
}

/** Steps of all concepts; the subject is a concept's name. */
export interface CollectProgress extends SubjectProgress {
  readonly stage: Stage;
}

/** Statistics that were written. */
export interface CollectedFile {
  /** The concept's name. */
  readonly concept: string;
  /** Absolute path. */
  readonly file: string;
  readonly sizeBytes: number;
  readonly elapsedMs: number;
}

/**
 * Collect each concept's statistics in its own model, ready for any fusion on this base. All targets are checked before the
 * first network runs.
 * @throws {UsageError} if a target stands there already, is an input, or several concepts share one
 * @throws {MismatchError | FormatError} as `planFusion`, for concepts that do not fit the base
 */
export async function collectStatistics(request: CollectRequest): Promise<CollectedFile[]> {
  const { base, concepts, out, layers, force = false, onProgress, onNote } = request;
  const options = { ...DEFAULTS, ...request.options };
  checkCollectOptions(options);
  if (out !== undefined && concepts.length > 1) {
    throw new UsageError(`out: expected one concept with it, got ${concepts.length}`);
  }
  const jobs: { target: string; concept: FusionConcept }[] = [];
  for (const input of concepts) {
    const { concept } = input;
    const target = out ?? statisticsBeside(concept);
    const inputs = [concept.path, ...conceptFiles(concept), base.path, ...baseFiles(base)];
    checkFileTarget(target, { inputs, force });
    jobs.push({ target, concept: await prepareConcept(base, input, onNote) });
  }
  // Every step of every run, the text encoder, and the words.
  const units = options.steps * options.runs + 2;
  const total = jobs.length * units;
  const written: CollectedFile[] = [];
  for (const [i, { target, concept }] of jobs.entries()) {
    let done = i * units;
    const start = performance.now();
    const execution = executionContext(request, ({ stage, subject }: CollectedUnit) =>
      onProgress?.({ stage, subject, done: ++done, total }),
    );
    const store = new StatisticsStore(base, null, execution, { onNote });
    const [text, cross, spatial] = STAGES.map((stage) => scopeIn(concept, stage, layers));
    await store.collectInto(target, concept, { text: text!, cross: cross!, spatial: spatial! }, options);
    const file = path.resolve(target);
    written.push({
      concept: concept.name,
      file,
      sizeBytes: statSync(file).size,
      elapsedMs: performance.now() - start,
    });
  }
  return written;
}

/** All attentions at least: the other concepts of a fusion train those. */
function scopeIn({ concept }: FusionConcept, stage: Stage, wanted: LayerScope | undefined): LayerScope {
  const trained = [...concept.layers.values()].filter((layer) => stageOf(layer) === stage);
  const own = scopeOf(trained.map(({ layerName }) => layerName));
  return wanted === 'linear' || own === 'linear' ? 'linear' : 'attention';
}
