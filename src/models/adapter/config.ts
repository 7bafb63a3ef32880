/** Configuration of a T2I-Adapter, as in its `config.json`. */
import { z } from 'zod';
import { jsonExcerpt } from '../../formats/excerpt.ts';

export interface AdapterConfig {
  /** `full_adapter` halves the picture before each feature but the first, `full_adapter_xl` before the third alone. */
  readonly type: 'full_adapter' | 'full_adapter_xl';
  readonly inChannels: number;
  /** Of each feature. */
  readonly channels: readonly number[];
  readonly numResBlocks: number;
  /** Pixels per cell of the first feature along each axis. */
  readonly downscaleFactor: number;
}

const positive = z.number().int().positive().max(65_536);

export const adapterSchema = z
  .object({
    adapter_type: z.enum(['full_adapter', 'full_adapter_xl'], {
      error: ({ input }) =>
        `expected full_adapter or full_adapter_xl, got ${jsonExcerpt(input)}; an adapter for another architecture?`,
    }),
    in_channels: positive.default(3),
    channels: z.array(positive).min(1).max(8).default([320, 640, 1280, 1280]),
    num_res_blocks: positive.max(16).default(2),
    downscale_factor: positive.max(64).default(8),
  })
  .transform(
    (json): AdapterConfig => ({
      type: json.adapter_type,
      inChannels: json.in_channels,
      channels: json.channels,
      numResBlocks: json.num_res_blocks,
      downscaleFactor: json.downscale_factor,
    }),
  );
