/** The refinement of a whole fusion: which teachers, which prompts, which layers. */

import type { BoundVocabulary } from '../../concepts/prompt.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { CONTEXTS } from '../contexts.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { FusionOptions } from '../options.ts';
import { type LatentSize, PromptReader } from '../prompt-reader.ts';
import { latentSizeFor } from '../statistics/collector.ts';
import {
  captionTeacher,
  conceptTeacher,
  ModelReading,
  noPromptOf,
  refineOptionsFor,
  workOf,
} from './readings.ts';
import { refine } from './refine.ts';
import { REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';
import type { Refinement, RefineProgress, Teacher } from './refine-request.ts';
import type { RefineWork } from './refine-work.ts';

/** Prompts that a concept is judged by. */
const JUDGING_TEMPLATES = [
  'a picture of a {}',
  'a {} on a chair',
  'a photo of a {} in front of a wall',
  'a small {}',
];

export interface FusionToRefine {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  readonly concepts: readonly FusionConcept[];
  readonly captions: readonly string[];
  readonly options: FusionOptions;
  /** The fused changes; those of the UNet are where it begins, the others stay. */
  readonly deltas: ModelDeltas;
  readonly execution: ExecutionContext<RefineProgress>;
}

/**
 * Move the UNet's fused factors so that predictions are those of each concept's own model, and those of the base
 * for generic captions.
 * @throws as `refine`
 */
export async function refineFusion(fusion: FusionToRefine): Promise<Refinement> {
  const { base, vocabulary, concepts, captions, options, deltas: fused, execution } = fusion;
  const reader = new PromptReader(base, vocabulary, execution);
  const size = await latentSizeFor(base, options);
  const inFused = new ModelReading(reader, size, fused);
  const teachers: Teacher[] = [];
  for (const { name, deltas } of concepts) {
    const inOwn = new ModelReading(reader, size, deltas);
    const templates = { taught: taughtTemplates(options), judging: JUDGING_TEMPLATES };
    teachers.push(await conceptTeacher(name, inOwn, inFused, templates));
  }
  const inBase = new ModelReading(reader, size);
  return refine({
    base,
    size,
    schedule: checkpointSchedule(base),
    start: inFused.deltas,
    noPrompt: await noPromptOf(inBase, inFused),
    concepts: teachers,
    preserved: await captionTeacher(inBase, inFused, captions),
    options: settingsOf(base, size, options),
    execution,
  });
}

/** Work of the refinement of a fusion, as `refineWork`. */
export async function fusionRefineWork(
  base: Checkpoint,
  options: FusionOptions,
  concepts: number,
  captions: readonly string[],
): Promise<RefineWork> {
  const templates = taughtTemplates(options).length;
  const settings = settingsOf(base, await latentSizeFor(base, options), options);
  return workOf(settings, { teachers: concepts, templates, captions });
}

/** Prompts that a concept teaches by. */
function taughtTemplates({ promptTemplates }: FusionOptions): string[] {
  return [...new Set([...promptTemplates, ...CONTEXTS])];
}

function settingsOf(
  base: Checkpoint,
  size: LatentSize,
  { refine: steps, steps: collected, guidanceScale, seed }: FusionOptions,
): RefineOptions {
  const denoisingSteps = Math.min(collected, REFINE_DEFAULTS.denoisingSteps);
  return refineOptionsFor(base, size, { steps, denoisingSteps, guidanceScale, seed });
}
