/** The refinement of a whole fusion: which teachers, which prompts, which layers. */
import type { BoundVocabulary } from '../../concepts/prompt.ts';
import type { LowRank } from '../../linalg/low-rank.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { encodeText } from '../../models/clip/encode-text.ts';
import { TokenEmbeddings } from '../../models/clip/text-encoder.ts';
import type { LayerDeltas } from '../../models/lora.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { denoisedCaptions } from '../captions.ts';
import type { FusionOptions } from '../options.ts';
import type { Participant } from '../participant.ts';
import { conceptPrompts } from '../prompts.ts';
import { type Refinement, type RefineProgress, refine, refineUnits, type Teacher } from './refine.ts';
import { REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';

/** Captions by which the base teaches. */
const TAUGHT_CAPTIONS = 16;

export interface FusionToRefine {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  readonly participants: readonly Participant[];
  readonly captions: readonly string[];
  readonly options: FusionOptions;
  /** The fused changes: of the text encoder, which stays, and of the UNet, to begin with. */
  readonly textDeltas: LayerDeltas;
  readonly unetDeltas: ReadonlyMap<string, LowRank>;
  readonly onProgress?: (progress: RefineProgress) => void;
  readonly signal?: AbortSignal;
}

/**
 * Move the UNet's fused factors so that guided predictions are those of each concept's own model, and those of the base
 * for generic captions.
 * @throws as `refine`
 */
export async function refineFusion(fusion: FusionToRefine): Promise<Refinement> {
  const { base, vocabulary, participants, captions, options, textDeltas, unetDeltas } = fusion;
  const embeddings = new TokenEmbeddings(
    base.textEncoder.weights,
    base.textEncoder.config,
    vocabulary.embeddingRows(),
  );
  const context = async (
    perLayer: readonly (readonly number[])[],
    deltas: LayerDeltas,
  ): Promise<Tensor<Float32Array>> => {
    const { hiddenStates } = await encodeText(base.textEncoder, embeddings, perLayer, { deltas });
    return float32([1, ...hiddenStates.shape], hiddenStates.data);
  };
  const everywhere = (text: string): readonly (readonly number[])[] =>
    Array(base.layers.contextCount).fill(base.tokenizer.encodePadded(text).ids);
  const concepts: Teacher[] = [];
  for (const { name, textDeltas: own, unetDeltas: teaching } of participants) {
    const prompts = [];
    for (const ids of conceptPrompts(vocabulary, name, options.promptTemplates).padded) {
      prompts.push({ own: await context(ids, own), fused: await context(ids, textDeltas) });
    }
    concepts.push({
      name,
      unetDeltas: teaching,
      emptyContext: await context(everywhere(''), own),
      prompts,
    });
  }
  const preserved: Teacher = {
    name: 'captions',
    unetDeltas: new Map(),
    emptyContext: await context(everywhere(''), new Map()),
    prompts: [],
  };
  const taught = [];
  for (const caption of denoisedCaptions(captions, TAUGHT_CAPTIONS)) {
    const ids = everywhere(caption);
    taught.push({ own: await context(ids, new Map()), fused: await context(ids, textDeltas) });
  }
  return refine({
    base,
    schedule: await checkpointSchedule(base, 'DPMSolverMultistepScheduler'),
    start: unetDeltas,
    emptyContext: await context(everywhere(''), textDeltas),
    concepts,
    preserved: captions.length === 0 ? null : { ...preserved, prompts: taught },
    options: settingsOf(options),
    onProgress: fusion.onProgress,
    signal: fusion.signal,
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
