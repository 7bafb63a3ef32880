/** The refinement of a whole fusion: which teachers, which prompts, which layers. */

import type { BoundVocabulary } from '../../concepts/prompt.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { conditioningOf } from '../../models/families/conditioning.ts';
import { within } from '../../models/families/layer-table.ts';
import { forOneEncoder, type PromptIds, paddedIds } from '../../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { denoisedCaptions } from '../captions.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { FusionOptions } from '../options.ts';
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
  const { parts, family } = base;
  const added = vocabulary.embeddingRows;
  const reading = (deltas: ModelDeltas) => {
    const encoder = family.base.tokenEncoder(parts, { added, deltas, execution: fusion.execution });
    return (perLayer: readonly PromptIds[]) => conditioningOf(encoder, perLayer);
  };
  const readFused = reading(fused);
  const readPlain = reading(new Map());
  const everywhere = (text: string): PromptIds[] =>
    Array<PromptIds>(parts.layers.contextCount).fill(paddedIds(parts.tokenizers, text));
  const teachers: Teacher[] = [];
  for (const { name, deltas } of concepts) {
    const readOwn = reading(deltas);
    const prompts = [];
    for (const ids of conceptPrompts(vocabulary, name, options.promptTemplates).padded) {
      prompts.push({ own: await readOwn(forOneEncoder(ids)), fused: await readFused(forOneEncoder(ids)) });
    }
    teachers.push({
      name,
      deltas: within('unet', deltas),
      empty: await readOwn(everywhere('')),
      prompts,
    });
  }
  const taught = [];
  for (const caption of denoisedCaptions(captions, TAUGHT_CAPTIONS)) {
    const ids = everywhere(caption);
    taught.push({ own: await readPlain(ids), fused: await readFused(ids) });
  }
  const preserved: Teacher = {
    name: 'captions',
    deltas: new Map(),
    empty: await readPlain(everywhere('')),
    prompts: taught,
  };
  return refine({
    base,
    schedule: checkpointSchedule(base),
    start: within('unet', fused),
    empty: await readFused(everywhere('')),
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
