/** From token ids to what a UNet is conditioned on. A family has one encoder of prompts; users see only this. */
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import { float32 } from '../../tensor/tensor.ts';
import type { ModelDeltas } from '../lora.ts';
import type { UnetConfig } from '../unet/config.ts';
import type { ComponentId } from './layer-table.ts';
import type { Parts } from './parts.ts';
import type { PromptIds } from './prompt-ids.ts';

/** What a UNet is conditioned on, B rows. */
export interface Conditioning {
  /** Text features per cross-attention, [B, L, T, D]. */
  readonly context: Tensor<Float32Array>;
  /** One vector per prompt, [B, P], in families whose UNet reads one. */
  readonly pooled?: Tensor<Float32Array>;
  /** Sizes and offsets of the picture, [B, 6], in families whose UNet reads them. */
  readonly timeIds?: Tensor<Float32Array>;
  /** The same while a region keeps to itself, as of a picture of its own. Default: those of the whole picture. */
  readonly timeIdsApart?: Tensor<Float32Array>;
}

/** Encoded prompts. */
export interface EncodedPrompts {
  /** Text features, [B, T, D]. */
  readonly states: Tensor<Float32Array>;
  /** As of `Conditioning`. */
  readonly pooled?: Tensor<Float32Array>;
}

/** Sizes that some UNets read beside the timestep, in pixels. */
export interface PictureSizes {
  readonly width: number;
  readonly height: number;
  /** What the picture was before it was cut and scaled. Default: as large as it is. */
  readonly originalSize?: { readonly width: number; readonly height: number };
  /** Where it was cut from the scaled original. Default: the corner. */
  readonly crop?: { readonly left: number; readonly top: number };
}

/**
 * The sizes as a UNet of this configuration reads them, [1, 6]; undefined for one that reads none.
 * Source: diffusers, pipeline_stable_diffusion_xl.py (`_get_add_time_ids`).
 */
export function timeIdsOf(
  { addedInputs }: UnetConfig,
  { width, height, originalSize = { width, height }, crop = { left: 0, top: 0 } }: PictureSizes,
): Tensor<Float32Array> | undefined {
  if (addedInputs === undefined) return undefined;
  const ids = [originalSize.height, originalSize.width, crop.top, crop.left, height, width];
  return float32([1, ids.length], Float32Array.from(ids));
}

export interface TokenEncoderOptions {
  /** Rows of tokens behind the vocabulary of a text encoder, [count, D]. Default none. */
  readonly added?: (component: ComponentId) => Float32Array;
  /** Changes of the base; those of the text encoders count. Default none. */
  readonly deltas?: ModelDeltas;
  /** Layers to leave out at the end of each text encoder. Default 0. */
  readonly clipSkip?: number;
  readonly execution?: ExecutionContext;
}

/** The text encoders of a base, in the model with some changes. */
export interface TokenEncoder {
  /** @throws {ShapeError} if the lists differ in length or exceed the model's positions */
  encode(batch: readonly PromptIds[]): Promise<EncodedPrompts>;
}

export type MakeTokenEncoder = (parts: Parts, options?: TokenEncoderOptions) => TokenEncoder;

/**
 * One conditioning from the prompts of its cross-attentions. A vector per prompt, where there is one, is that of the first.
 * @param perLayer ids per cross-attention, L lists
 */
export async function conditioningOf(
  encoder: TokenEncoder,
  perLayer: readonly PromptIds[],
): Promise<Conditioning> {
  const { states, pooled } = await encoder.encode(perLayer);
  const width = pooled?.shape[1] ?? 0;
  return {
    context: float32([1, ...states.shape], states.data),
    pooled: pooled && float32([1, width], pooled.data.slice(0, width)),
  };
}

/** Several pictures' conditioning as one batch, row after row. */
export function stackedConditioning(parts: readonly Conditioning[]): Conditioning {
  const of = (pick: (part: Conditioning) => Tensor<Float32Array> | undefined) => {
    const own = parts.flatMap((part) => pick(part) ?? []);
    return own.length === parts.length ? joinedRows(own) : undefined;
  };
  return {
    context: of(({ context }) => context)!,
    pooled: of(({ pooled }) => pooled),
    timeIds: of(({ timeIds }) => timeIds),
    timeIdsApart: of(({ timeIds, timeIdsApart = timeIds }) => timeIdsApart),
  };
}

/** As inputs of the UNet's graph. */
export function conditioningFeeds({
  context,
  pooled,
  timeIds,
}: Conditioning): Record<string, Tensor<Float32Array>> {
  return {
    encoder_hidden_states: context,
    ...(pooled === undefined ? {} : { text_embeds: pooled }),
    ...(timeIds === undefined ? {} : { time_ids: timeIds }),
  };
}

/** Tensors one after the other along the first axis; at least one. */
export function joinedRows(tensors: readonly Tensor<Float32Array>[]): Tensor<Float32Array> {
  const [first] = tensors;
  const rows = tensors.reduce((sum, { shape }) => sum + shape[0]!, 0);
  const all = float32([rows, ...first!.shape.slice(1)]);
  let at = 0;
  for (const { data } of tensors) {
    all.data.set(data, at);
    at += data.length;
  }
  return all;
}

/** What stands for no prompt at all in models that read zeros there. */
export function zerosLike({ context, pooled }: Conditioning): Conditioning {
  return { context: float32(context.shape), pooled: pooled && float32(pooled.shape) };
}
