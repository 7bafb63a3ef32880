/** Configuration of a ControlNet, as in its `config.json`: a UNet's, and that of the picture's embedding. */

import { z } from 'zod';
import { safeParse } from '../../formats/safe-parse.ts';
import { type UnetConfig, unetSchema } from '../unet/config.ts';

export interface ControlNetConfig {
  /** As of the UNet it was copied from. */
  readonly unet: UnetConfig;
  readonly conditioningChannels: number;
  /** Channels of the picture's embedding; each but the first halves the picture. */
  readonly embeddingChannels: readonly number[];
}

/** Pixels per latent cell. */
export function controlNetFactor({ embeddingChannels }: ControlNetConfig): number {
  return 2 ** (embeddingChannels.length - 1);
}

const positive = z.number().int().positive().max(65_536);
const UP = { CrossAttnDownBlock2D: 'CrossAttnUpBlock2D', DownBlock2D: 'UpBlock2D' } as const;

export const controlNetSchema = z
  .looseObject({
    _class_name: z.literal('ControlNetModel').optional(),
    conditioning_channels: positive.default(3),
    conditioning_embedding_out_channels: z.array(positive).min(2).max(8).default([16, 32, 96, 256]),
    controlnet_conditioning_channel_order: z.literal('rgb').default('rgb'),
    global_pool_conditions: z.literal(false).default(false),
    down_block_types: z.array(z.enum(['CrossAttnDownBlock2D', 'DownBlock2D'])).max(8),
  })
  .transform((json, context): ControlNetConfig => {
    // A ControlNet has no second half; the mirrored one stands in.
    const up = json.down_block_types.map((type) => UP[type]).toReversed();
    const {
      _class_name: _,
      conditioning_channels: conditioningChannels,
      conditioning_embedding_out_channels: embeddingChannels,
      controlnet_conditioning_channel_order: _order,
      global_pool_conditions: _pool,
      ...own
    } = json;
    const unet = safeParse(unetSchema, { ...own, up_block_types: up });
    if (!unet.success) {
      const { path, message } = unet.error.issues[0]!;
      context.addIssue({ code: 'custom', path, message });
      return z.NEVER;
    }
    return {
      unet: unet.data,
      conditioningChannels,
      embeddingChannels,
    };
  });
