/** Configuration of the autoencoder, as in `vae/config.json`. */
import { z } from 'zod';
import { only, onlyKnown } from '../built-fields.ts';

export interface VaeConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly latentChannels: number;
  readonly blockChannels: readonly number[];
  readonly layersPerBlock: number;
  readonly normGroups: number;
  /** Latents are multiplied by this after encoding and divided by it before decoding. */
  readonly scalingFactor: number;
  readonly quantConv: boolean;
  readonly postQuantConv: boolean;
  readonly midAttention: boolean;
}

/** Pixels per latent cell along each axis: 8 for SD 1.x. */
export function vaeFactor(config: VaeConfig): number {
  return 2 ** (config.blockChannels.length - 1);
}

const positive = z.number().int().positive().max(65_536);

const fields = {
  _class_name: only('AutoencoderKL'),
  in_channels: positive.default(3),
  out_channels: positive.default(3),
  latent_channels: positive.default(4),
  block_out_channels: z.array(positive).min(1).max(8),
  down_block_types: only('DownEncoderBlock2D'),
  up_block_types: only('UpDecoderBlock2D'),
  layers_per_block: positive.max(16).default(1),
  norm_num_groups: positive.default(32),
  act_fn: only('silu', 'swish'),
  scaling_factor: z.number().positive().max(1000).default(0.18215),
  shift_factor: only(),
  latents_mean: only(),
  latents_std: only(),
  use_quant_conv: z.boolean().default(true),
  use_post_quant_conv: z.boolean().default(true),
  mid_block_add_attention: z.boolean().default(true),
};

/** Numbers are float32 here; pictures may have any size. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set(['force_upcast', 'sample_size']);

export const vaeSchema = z
  .looseObject(fields)
  .superRefine(onlyKnown(fields, WITHOUT_EFFECT))
  .refine((json) => json.block_out_channels.every((channels) => channels % json.norm_num_groups === 0), {
    path: ['block_out_channels'],
    error: 'expected multiples of norm_num_groups',
  })
  .transform(
    (json): VaeConfig => ({
      inChannels: json.in_channels,
      outChannels: json.out_channels,
      latentChannels: json.latent_channels,
      blockChannels: json.block_out_channels,
      layersPerBlock: json.layers_per_block,
      normGroups: json.norm_num_groups,
      scalingFactor: json.scaling_factor,
      quantConv: json.use_quant_conv,
      postQuantConv: json.use_post_quant_conv,
      midAttention: json.mid_block_add_attention,
    }),
  );
