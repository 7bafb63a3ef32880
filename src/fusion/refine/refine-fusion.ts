/** The refinement of a whole fusion: which teachers, which prompts, which layers. */

import type { BoundVocabulary } from '../../concepts/prompt.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { within } from '../../models/families/layer-table.ts';
import type { PromptIds } from '../../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { denoisedCaptions } from '../captions.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { FusionOptions } from '../options.ts';
import { PromptReader } from '../prompt-reader.ts';
import { conceptPrompts } from '../prompts.ts';
import { refine, refineWork } from './refine.ts';
import { REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';
import type { Refinement, RefineProgress, Teacher } from './refine-request.ts';
import type { RefinePrompt } from './refine-states.ts';

/** Captions by which the base teaches; one in five of them judges. */
const TAUGHT_CAPTIONS = 20;
const JUDGING_CAPTION = 5;
/** Side of latents up to which a whole batch is one pass. */
const SMALL_LATENTS = 32;
/** Prompts that a concept is judged by. */
const JUDGING_TEMPLATES = [
  'a picture of a {}',
  'a {} on a table',
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
 * Move the UNet's fused factors so that guided predictions are those of each concept's own model, and those of the base
 * for generic captions.
 * @throws as `refine`
 */
export async function refineFusion(fusion: FusionToRefine): Promise<Refinement> {
  const { base, vocabulary, concepts, captions, options, deltas: fused } = fusion;
  const { sampleSize } = base.parts.unet.config;
  const size = { height: sampleSize, width: sampleSize };
  const reader = new PromptReader(base, vocabulary, fusion.execution);
  const reading = (deltas: ModelDeltas) => {
    const encoder = reader.encoder(deltas);
    return {
      read: (perLayer: readonly PromptIds[]) => reader.conditioning(perLayer, encoder, size),
      noPrompt: () => reader.noPrompt(encoder, size),
    };
  };
  const inFused = reading(fused);
  const inBase = reading(new Map());
  const teachers: Teacher[] = [];
  for (const { name, deltas } of concepts) {
    const inOwn = reading(deltas);
    const read = async (templates: readonly string[]): Promise<RefinePrompt[]> => {
      const prompts = [];
      for (const ids of conceptPrompts(vocabulary, name, templates).padded) {
        prompts.push({ own: await inOwn.read(ids), fused: await inFused.read(ids) });
      }
      return prompts;
    };
    teachers.push({
      name,
      deltas: within('unet', deltas),
      empty: await inOwn.noPrompt(),
      prompts: await read(options.promptTemplates),
      heldOut: await read(JUDGING_TEMPLATES),
    });
  }
  const taught: RefinePrompt[] = [];
  for (const caption of denoisedCaptions(captions, TAUGHT_CAPTIONS)) {
    const ids = reader.everywhere(caption);
    taught.push({ own: await inBase.read(ids), fused: await inFused.read(ids) });
  }
  const isJudging = (caption: number): boolean => caption % JUDGING_CAPTION === 1;
  const preserved: Teacher = {
    name: 'captions',
    deltas: new Map(),
    empty: await inBase.noPrompt(),
    prompts: taught.filter((_, i) => !isJudging(i)),
    heldOut: taught.filter((_, i) => isJudging(i)),
  };
  return refine({
    base,
    schedule: checkpointSchedule(base),
    start: within('unet', fused),
    empty: await inFused.noPrompt(),
    concepts: teachers,
    preserved: captions.length === 0 ? null : preserved,
    options: settingsOf(base, options),
    execution: fusion.execution,
  });
}

/** Work of the refinement of a fusion, as `refineWork`. */
export function fusionRefineWork(
  base: Checkpoint,
  options: FusionOptions,
  concepts: number,
  captions: number,
): ReturnType<typeof refineWork> {
  if (options.refine === 0) return { units: 0, passes: 0 };
  const teachers = concepts + (captions > 0 ? 1 : 0);
  // A list of one caption has none to judge by.
  return refineWork(settingsOf(base, options), teachers, captions > 1 ? teachers : concepts);
}

function settingsOf(
  base: Checkpoint,
  { refine: steps, guidanceScale, steps: collected, seed }: FusionOptions,
): RefineOptions {
  const denoisingSteps = Math.min(collected, REFINE_DEFAULTS.denoisingSteps);
  const given = { ...REFINE_DEFAULTS, steps, guidanceScale, denoisingSteps, seed };
  // Of a model of that size the way back of one guided picture takes as much memory as a step of training with two.
  return base.parts.unet.config.sampleSize <= SMALL_LATENTS
    ? given
    : { ...given, picturesPerPass: 1, recomputeBlocks: true };
}
