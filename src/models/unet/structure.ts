/** The one declared order in which a UNet's blocks and cross-attentions are walked: down, middle, up. */
import type { UnetConfig } from './config.ts';

/** A transformer block with its place in the network. */
export interface TransformerPlace {
  /** `down_blocks.0.attentions.1`, `mid_block.attentions.0`, … */
  readonly path: string;
  readonly channels: number;
  readonly numHeads: number;
  /** How often the latents have been halved where it stands: 0 at full size. */
  readonly level: number;
}

/** All transformers in the order of the per-layer text context: index k reads context k. */
export function transformerPlaces({ blocks, layersPerBlock }: UnetConfig): TransformerPlace[] {
  const places: TransformerPlace[] = [];
  const last = blocks.length - 1;
  blocks.forEach(({ crossAttention, channels, numHeads }, level) => {
    for (let j = 0; crossAttention && j < layersPerBlock; j++) {
      places.push({ path: `down_blocks.${level}.attentions.${j}`, channels, numHeads, level });
    }
  });
  const { channels, numHeads } = blocks[last]!;
  places.push({ path: 'mid_block.attentions.0', channels, numHeads, level: last });
  blocks.toReversed().forEach((block, i) => {
    for (let j = 0; block.crossAttention && j <= layersPerBlock; j++) {
      const path = `up_blocks.${i}.attentions.${j}`;
      places.push({ path, channels: block.channels, numHeads: block.numHeads, level: last - i });
    }
  });
  return places;
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
  return transformerPlaces(config).map(({ path }) => `${path}.transformer_blocks.0.attn2`);
}

/** All linear and 1×1 convolution layers that can carry factors and probes, in declared order, with their [m, n]. */
export function linearLayers(config: UnetConfig): Map<string, readonly [m: number, n: number]> {
  const layers = new Map<string, readonly [number, number]>();
  for (const { path, channels: c } of transformerPlaces(config)) {
    const block = `${path}.transformer_blocks.0`;
    layers.set(`${path}.proj_in`, [c, c]);
    for (const [attention, context] of [
      ['attn1', c],
      ['attn2', config.crossAttentionDim],
    ] as const) {
      layers.set(`${block}.${attention}.to_q`, [c, c]);
      layers.set(`${block}.${attention}.to_k`, [c, context]);
      layers.set(`${block}.${attention}.to_v`, [c, context]);
      layers.set(`${block}.${attention}.to_out.0`, [c, c]);
    }
    layers.set(`${block}.ff.net.0.proj`, [8 * c, c]);
    layers.set(`${block}.ff.net.2`, [c, 4 * c]);
    layers.set(`${path}.proj_out`, [c, c]);
  }
  const time = 4 * config.blocks[0]!.channels;
  layers.set('time_embedding.linear_1', [time, config.blocks[0]!.channels]);
  layers.set('time_embedding.linear_2', [time, time]);
  for (const { path, inChannels, channels } of resnetPlaces(config)) {
    layers.set(`${path}.time_emb_proj`, [channels, time]);
    if (inChannels !== channels) layers.set(`${path}.conv_shortcut`, [channels, inChannels]);
  }
  return layers;
}

/** All 3×3 convolutions that can carry factors (LoCon), in declared order, with [m, 9 · n] of a weight [m, n, 3, 3]. */
export function convLayers(config: UnetConfig): Map<string, readonly [m: number, n: number]> {
  const { blocks } = config;
  const layers = new Map<string, readonly [number, number]>();
  const last = blocks.length - 1;
  layers.set('conv_in', [blocks[0]!.channels, 9 * config.inChannels]);
  for (const { path, inChannels, channels } of resnetPlaces(config)) {
    layers.set(`${path}.conv1`, [channels, 9 * inChannels]);
    layers.set(`${path}.conv2`, [channels, 9 * channels]);
  }
  blocks.forEach(({ channels }, i) => {
    if (i === last) return;
    layers.set(`down_blocks.${i}.downsamplers.0.conv`, [channels, 9 * channels]);
    const up = blocks[last - i]!.channels;
    layers.set(`up_blocks.${i}.upsamplers.0.conv`, [up, 9 * up]);
  });
  layers.set('conv_out', [config.outChannels, 9 * blocks[0]!.channels]);
  return layers;
}

/** Every layer that can carry factors: linears, 1×1 convolutions, and 3×3 convolutions with [m, 9 · n]. */
export function factorLayers(config: UnetConfig): Map<string, readonly [m: number, n: number]> {
  return new Map([...linearLayers(config), ...convLayers(config)]);
}

/** All residual blocks in declared order with their channel counts (skip connections included). */
export function resnetPlaces({
  blocks,
  layersPerBlock,
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
  for (const j of [0, 1])
    places.push({ path: `mid_block.resnets.${j}`, inChannels: current, channels: current });
  blocks.toReversed().forEach(({ channels }, i) => {
    for (let j = 0; j <= layersPerBlock; j++) {
      places.push({ path: `up_blocks.${i}.resnets.${j}`, inChannels: current + skips.pop()!, channels });
      current = channels;
    }
  });
  return places;
}
