/** How prompts reach a denoising run: read by the text encoders of a model, with the sizes that some UNets read beside them. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import {
  type Conditioning,
  conditioningOf,
  type TokenEncoder,
  timeIdsOf,
  zerosLike,
} from '../models/families/conditioning.ts';
import { type PromptIds, paddedIds } from '../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { vaeFactor } from '../models/vae/config.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Height and width of latents. */
export interface LatentSize {
  readonly height: number;
  readonly width: number;
}

/** Of the latents that a base was trained at. */
export function latentSizeOf({ parts }: Checkpoint): LatentSize {
  const { sampleSize } = parts.unet.config;
  return { height: sampleSize, width: sampleSize };
}

/** What a UNet reads of the size of whole pictures, [1, 6]; undefined for one that reads nothing of it. */
export async function timeIdsOfLatents(
  { parts }: Checkpoint,
  { height, width }: LatentSize,
): Promise<Tensor<Float32Array> | undefined> {
  const { config } = parts.unet;
  if (config.addedInputs === undefined) return undefined;
  const factor = vaeFactor((await parts.vae()).config);
  return timeIdsOf(config, { height: height * factor, width: width * factor });
}

export class PromptReader {
  readonly #base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  readonly #execution: ExecutionContext | undefined;

  constructor(base: Checkpoint, vocabulary: BoundVocabulary, execution?: ExecutionContext) {
    this.#base = base;
    this.vocabulary = vocabulary;
    this.#execution = execution;
  }

  /** The text encoders with these deltas. Default: as they are in the base. */
  encoder(deltas: ModelDeltas = new Map()): TokenEncoder {
    const { family, parts } = this.#base;
    const added = this.vocabulary.embeddingRows;
    return family.base.tokenEncoder(parts, { added, deltas, execution: this.#execution });
  }

  /** A text without words of concepts, the same for every cross-attention. */
  everywhere(text: string): PromptIds[] {
    const { parts } = this.#base;
    return Array<PromptIds>(parts.layers.contextCount).fill(paddedIds(parts.tokenizers, text));
  }

  /**
   * One row of a denoising run of pictures of a size.
   * @param perLayer ids per cross-attention
   */
  async conditioning(
    perLayer: readonly PromptIds[],
    encoder: TokenEncoder,
    size: LatentSize,
  ): Promise<Conditioning> {
    const timeIds = await timeIdsOfLatents(this.#base, size);
    return { ...(await conditioningOf(encoder, perLayer)), timeIds };
  }

  /** The row of no prompt: zeros in models that say so, else the empty text. */
  async noPrompt(encoder: TokenEncoder, size: LatentSize): Promise<Conditioning> {
    const empty = await this.conditioning(this.everywhere(''), encoder, size);
    return this.#base.zerosForNoPrompt ? { ...zerosLike(empty), timeIds: empty.timeIds } : empty;
  }
}
