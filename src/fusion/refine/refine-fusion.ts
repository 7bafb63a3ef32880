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
import { type Refinement, type RefineProgress, refine, refineUnits, type Teacher } from './refine.ts';
import { REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';

/** Captions by which the base teaches. */
const TAUGHT_CAPTIONS = 16;

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
    const prompts = [];
    for (const ids of conceptPrompts(vocabulary, name, options.promptTemplates).padded) {
      prompts.push({ own: await inOwn.read(ids), fused: await inFused.read(ids) });
    }
    teachers.push({
      name,
      deltas: within('unet', deltas),
      empty: await inOwn.noPrompt(),
      prompts,
    });
  }
  const taught = [];
  for (const caption of denoisedCaptions(captions, TAUGHT_CAPTIONS)) {
    const ids = reader.everywhere(caption);
    taught.push({ own: await inBase.read(ids), fused: await inFused.read(ids) });
  }
  const preserved: Teacher = {
    name: 'captions',
    deltas: new Map(),
    empty: await inBase.noPrompt(),
    prompts: taught,
  };
  return refine({
    base,
    schedule: checkpointSchedule(base),
    start: within('unet', fused),
    empty: await inFused.noPrompt(),
    concepts: teachers,
    preserved: captions.length === 0 ? null : preserved,
    options: settingsOf(options),
    execution: fusion.execution,
  });
}

/** Units of work that the refinement of a fusion will count. */
export function fusionRefineUnits(options: FusionOptions, concepts: number, captions: number): number {
  return options.refine === 0 ? 0 : refineUnits(settingsOf(options), concepts + (captions > 0 ? 1 : 0));
}

function settingsOf({
  refine: steps,
  guidanceScale,
  steps: denoisingSteps,
  seed,
}: FusionOptions): RefineOptions {
  return { ...REFINE_DEFAULTS, steps, guidanceScale, denoisingSteps, seed };
}
