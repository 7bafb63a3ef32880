/** The one declared order in which a UNet's blocks and cross-attentions are walked: down, middle, up. */
import type { UnetConfig } from './config.ts';

/** One block of a transformer: a self-attention, a cross-attention and a feed-forward. */
export interface AttentionPlace {
  /** `down_blocks.0.attentions.1.transformer_blocks.0`, … */
  readonly path: string;
  readonly channels: number;
  readonly numHeads: number;
  /** How often the latents have been halved where it stands: 0 at full size. */
  readonly level: number;
  /** Its cross-attention reads this one of the per-layer text contexts. */
  readonly index: number;
}

/** A transformer with its place in the network. */
export interface TransformerPlace {
  /** `down_blocks.0.attentions.1`, `mid_block.attentions.0`, … */
  readonly path: string;
  readonly channels: number;
  readonly blocks: readonly AttentionPlace[];
}

/** All transformers in the order of the per-layer text context. */
export function transformerPlaces({ blocks, layersPerBlock, middle = true }: UnetConfig): TransformerPlace[] {
  const places: TransformerPlace[] = [];
  const last = blocks.length - 1;
  let index = 0;
  const add = (path: string, level: number): void => {
    const { channels, numHeads, transformerDepth = 1 } = blocks[level]!;
    const own = Array.from({ length: transformerDepth }, (_, t) => ({
      path: `${path}.transformer_blocks.${t}`,
      channels,
      numHeads,
      level,
      index: index++,
    }));
    places.push({ path, channels, blocks: own });
  };
  blocks.forEach(({ crossAttention }, level) => {
    for (let j = 0; crossAttention && j < layersPerBlock; j++)
      add(`down_blocks.${level}.attentions.${j}`, level);
  });
  if (middle) add('mid_block.attentions.0', last);
  blocks.toReversed().forEach(({ crossAttention }, i) => {
    for (let j = 0; crossAttention && j <= layersPerBlock; j++)
      add(`up_blocks.${i}.attentions.${j}`, last - i);
  });
  return places;
}

/** The blocks of all transformers; the k-th cross-attention reads context k. */
export function attentionPlaces(config: UnetConfig): AttentionPlace[] {
  return transformerPlaces(config).flatMap(({ blocks }) => blocks);
}

/** Height and width of the latents at each level: halved, rounding up, from block to block. */
export function levelSizes(
  { blocks }: UnetConfig,
  latentHeight: number,
  latentWidth: number,
): { readonly height: number; readonly width: number }[] {
  const sizes = [{ height: latentHeight, width: latentWidth }];
  for (let i = 1; i < blocks.length; i++) {
    const { height, width } = sizes[i - 1]!;
    sizes.push({ height: Math.ceil(height / 2), width: Math.ceil(width / 2) });
  }
  return sizes;
}

/** Layer names of the cross-attentions (`….transformer_blocks.0.attn2`), in context order. */
export function crossAttentionNames(config: UnetConfig): string[] {
  return attentionPlaces(config).map(({ path }) => `${path}.attn2`);
}

/** All residual blocks in declared order with their channel counts (skip connections included). */
export function resnetPlaces({
  blocks,
  layersPerBlock,
  middle = true,
}: UnetConfig): { path: string; inChannels: number; channels: number }[] {
  const places: { path: string; inChannels: number; channels: number }[] = [];
  const skips = [blocks[0]!.channels];
  let current = blocks[0]!.channels;
  blocks.forEach(({ channels }, i) => {
    for (let j = 0; j < layersPerBlock; j++) {
      places.push({ path: `down_blocks.${i}.resnets.${j}`, inChannels: current, channels });
      current = channels;
      skips.push(current);
    }
    if (i < blocks.length - 1) skips.push(current);
  });
  for (const j of middle ? [0, 1] : [])
    places.push({ path: `mid_block.resnets.${j}`, inChannels: current, channels: current });
  blocks.toReversed().forEach(({ channels }, i) => {
    for (let j = 0; j <= layersPerBlock; j++) {
      places.push({ path: `up_blocks.${i}.resnets.${j}`, inChannels: current + skips.pop()!, channels });
      current = channels;
    }
  });
  return places;
}
