/** Configuration of a UNet, as in `unet/config.json`. Anything the graph would not honour is refused. */
import { z } from 'zod';
import { jsonExcerpt } from '../../formats/excerpt.ts';
import { only, onlyKnown } from '../built-fields.ts';

export interface UnetBlockConfig {
  readonly channels: number;
  /** Whether the block's resnets are each followed by a transformer with cross-attention. */
  readonly crossAttention: boolean;
  /** Attention heads of this block's transformers. */
  readonly numHeads: number;
  /** Blocks of each of its transformers; the last block's is the middle's too. Default 1. */
  readonly transformerDepth?: number;
}

export interface UnetConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Down blocks in order; the up blocks mirror them. */
  readonly blocks: readonly UnetBlockConfig[];
  readonly layersPerBlock: number;
  /** Whether there is a block between down and up. Default true; BK-SDM's small models have none. */
  readonly middle?: boolean;
  /** Width D of the text features, 768 in SD 1.x. */
  readonly crossAttentionDim: number;
  /** Whether the transformers begin and end with linear layers rather than 1×1 convolutions. Default false. */
  readonly linearProjection?: boolean;
  /** Numbers beside the timestep (pooled text, six sizes) that two more layers read, 2816 in SDXL. Default none. */
  readonly addedInputs?: number;
  /** How many of them each size becomes, 256 in SDXL; the rest is the pooled text. */
  readonly sizeEmbeddingDim?: number;
  readonly normGroups: number;
  /** Of the resnets and the last norm; the transformers' entry norm always has 1e-6. */
  readonly normEpsilon: number;
  readonly flipSinToCos: boolean;
  readonly frequencyShift: number;
  /** Latent size the model was trained at (64 for 512 × 512 pictures). */
  readonly sampleSize: number;
}

/** Sizes that a UNet with added inputs reads: original height and width, top and left of the crop, target height and width. */
export const TIME_IDS = 6;

const positive = z.number().int().positive().max(65_536);
const perBlock = z.union([positive, z.array(positive).max(8)]);
const DOWN = { CrossAttnDownBlock2D: true, DownBlock2D: false } as const;
const MIDDLE = 'UNetMidBlock2DCrossAttn';
const UP = { CrossAttnUpBlock2D: true, UpBlock2D: false } as const;

/** Fields that diffusers writes and that change nothing by themselves, or nothing when pictures are drawn. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  'dropout',
  // Numbers are float32 here.
  'upcast_attention',
  // Read with embeddings that are refused.
  'addition_embed_type_num_heads',
  'class_embeddings_concat',
  // How averages of weights were made, in models that hold such averages.
  'decay',
  'inv_gamma',
  'min_decay',
  'optimization_step',
  'power',
  'update_after_step',
  'use_ema_warmup',
]);

const fields = {
  _class_name: only('UNet2DConditionModel'),
  in_channels: positive.default(4),
  out_channels: positive.default(4),
  block_out_channels: z.array(positive).min(2).max(8),
  down_block_types: z.array(z.enum(['CrossAttnDownBlock2D', 'DownBlock2D'])).max(8),
  up_block_types: z.array(z.enum(['CrossAttnUpBlock2D', 'UpBlock2D'])).max(8),
  layers_per_block: positive.max(16).default(2),
  attention_head_dim: perBlock.default(8),
  num_attention_heads: perBlock.nullish(),
  cross_attention_dim: positive.default(1280),
  transformer_layers_per_block: z.union([positive.max(64), z.array(positive.max(64)).max(8)]).nullish(),
  reverse_transformer_layers_per_block: only(),
  use_linear_projection: z.boolean().nullish(),
  norm_num_groups: positive.default(32),
  norm_eps: z.number().positive().max(1).default(1e-5),
  flip_sin_to_cos: z.boolean().default(true),
  freq_shift: z.number().min(0).max(1).default(0),
  sample_size: z.union([positive.max(4096), z.array(positive.max(4096)).length(2)]).nullish(),
  act_fn: only('silu', 'swish'),
  mid_block_type: z
    .unknown()
    .optional()
    .refine((value) => value === undefined || value === null || value === MIDDLE, {
      error: ({ input }) => `expected "${MIDDLE}" or null, got ${jsonExcerpt(input)}; not built here`,
    }),
  downsample_padding: only(1),
  mid_block_scale_factor: only(1),
  center_input_sample: only(false),
  only_cross_attention: only(false),
  dual_cross_attention: only(false),
  class_embed_type: only(),
  num_class_embeds: only(),
  addition_embed_type: only('text_time'),
  addition_time_embed_dim: positive.nullish(),
  projection_class_embeddings_input_dim: positive.nullish(),
  encoder_hid_dim: only(),
  encoder_hid_dim_type: only(),
  resnet_time_scale_shift: only('default'),
  time_embedding_type: only('positional'),
  time_embedding_dim: only(),
  time_embedding_act_fn: only(),
  timestep_post_act: only(),
  time_cond_proj_dim: only(),
  conv_in_kernel: only(3),
  conv_out_kernel: only(3),
  attention_type: only('default'),
  resnet_skip_time_act: only(false),
  resnet_out_scale_factor: only(1),
  cross_attention_norm: only(),
  mid_block_only_cross_attention: only(false),
};

/** What UNets that read more than the noisy latents are for, by the number of their input channels. */
const READERS_OF_MORE: ReadonlyMap<number, string> = new Map([
  [5, 'depth'],
  [7, 'a picture to enlarge'],
  [8, 'instructions on a picture'],
  [9, 'inpainting'],
]);

/** Why a UNet of so many input channels is not drawn with. */
export function moreChannels(channels: number): string {
  const purpose = READERS_OF_MORE.get(channels);
  return `a UNet that reads more than the noisy latents${purpose === undefined ? '' : ` (${purpose})`} is not drawn with here`;
}

export const unetSchema = z
  .looseObject(fields)
  .superRefine(onlyKnown(fields, WITHOUT_EFFECT))
  .superRefine((json, context) => {
    if (json.in_channels < json.out_channels) {
      context.addIssue({
        code: 'custom',
        path: ['out_channels'],
        message: `expected ${json.in_channels} as in_channels, got ${json.out_channels}; a UNet that predicts more than the noise is not drawn with here`,
      });
    }
    if (json.in_channels > json.out_channels) {
      context.addIssue({
        code: 'custom',
        path: ['in_channels'],
        message: `expected ${json.out_channels} as out_channels, got ${json.in_channels}; ${moreChannels(json.in_channels)}`,
      });
    }
  })
  .transform((json, context): UnetConfig => {
    const count = json.block_out_channels.length;
    // diffusers reads attention_head_dim as the number of heads where num_attention_heads is not set.
    const heads = json.num_attention_heads ?? json.attention_head_dim;
    const depths = json.transformer_layers_per_block ?? 1;
    const depthOf = (block: number): number => (Array.isArray(depths) ? depths[block]! : depths);
    const cross = json.down_block_types.map((type) => DOWN[type]);
    const mirrored = json.up_block_types.map((type) => UP[type]).toReversed();
    if (
      cross.length !== count ||
      mirrored.join() !== cross.join() ||
      (Array.isArray(heads) && heads.length !== count)
    ) {
      context.addIssue({
        code: 'custom',
        path: ['down_block_types'],
        message: `expected ${count} down blocks and the same up blocks in reverse, got ${json.down_block_types.join(', ')} and ${json.up_block_types.join(', ')}`,
      });
      return z.NEVER;
    }
    if (Array.isArray(depths) && depths.length !== count) {
      context.addIssue({
        code: 'custom',
        path: ['transformer_layers_per_block'],
        message: `expected one number, or one per down block (${count}), got ${depths.length}`,
      });
      return z.NEVER;
    }
    for (const [i, channels] of json.block_out_channels.entries()) {
      const own = Array.isArray(heads) ? heads[i]! : heads;
      // Half of the first width are cosines of the timestep, half sines.
      if (i === 0 && channels % 2 !== 0) {
        context.addIssue({
          code: 'custom',
          path: ['block_out_channels', 0],
          message: `expected an even number, got ${channels}`,
        });
        return z.NEVER;
      }
      if (channels % json.norm_num_groups === 0 && channels % own === 0) continue;
      context.addIssue({
        code: 'custom',
        path: ['block_out_channels', i],
        message: `expected a multiple of norm_num_groups ${json.norm_num_groups} and of ${own} heads, got ${channels}`,
      });
      return z.NEVER;
    }
    const added = json.projection_class_embeddings_input_dim ?? 0;
    const sizeDim = json.addition_time_embed_dim ?? 0;
    const addsText = json.addition_embed_type === 'text_time';
    if (addsText && (sizeDim === 0 || sizeDim % 2 !== 0 || added <= TIME_IDS * sizeDim)) {
      context.addIssue({
        code: 'custom',
        path: ['projection_class_embeddings_input_dim'],
        message: `expected more than ${TIME_IDS} times addition_time_embed_dim, an even number, got ${added} and ${sizeDim}`,
      });
      return z.NEVER;
    }
    return {
      inChannels: json.in_channels,
      outChannels: json.out_channels,
      blocks: json.block_out_channels.map((channels, i) => ({
        channels,
        crossAttention: cross[i]!,
        numHeads: Array.isArray(heads) ? heads[i]! : heads,
        ...(depthOf(i) === 1 ? {} : { transformerDepth: depthOf(i) }),
      })),
      layersPerBlock: json.layers_per_block,
      ...(json.mid_block_type === null ? { middle: false } : {}),
      crossAttentionDim: json.cross_attention_dim,
      ...(json.use_linear_projection ? { linearProjection: true } : {}),
      ...(addsText ? { addedInputs: added, sizeEmbeddingDim: sizeDim } : {}),
      normGroups: json.norm_num_groups,
      normEpsilon: json.norm_eps,
      flipSinToCos: json.flip_sin_to_cos,
      frequencyShift: json.freq_shift,
      sampleSize: Array.isArray(json.sample_size) ? json.sample_size[0]! : (json.sample_size ?? 64),
    };
  });
