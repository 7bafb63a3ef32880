/**
 * The SD 1.x UNet as a graph: noisy latents, timestep and text features to a prediction.
 * Source: diffusers, models/unets/unet_2d_condition.py; per-layer context as in Mix-of-Show's EDLoRA attention.
 */
import { ShapeError } from '../../errors.ts';
import { silu } from '../../graph/ops/elementwise.ts';
import { concat, gather, reshape } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { int64 } from '../../tensor/tensor.ts';
import { conv2d, normConv } from '../layers.ts';
import { type Network, NetworkBuilder, type NetworkOptions, type WeightSource } from '../network.ts';
import { downsample, resnet, transformer, upsample } from './blocks.ts';
import type { UnetConfig } from './config.ts';
import { transformerPlaces } from './structure.ts';
import { timeEmbedding } from './time-embedding.ts';

export interface UnetSize {
  readonly batch: number;
  /** In latent cells: an eighth of the picture for SD 1.x. Odd sizes are fine. */
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** Text positions T. */
  readonly tokens: number;
}

export interface UnetOptions extends NetworkOptions {
  /**
   * Text features per cross-attention layer, [B, L, T, D] (true), or one for all, [B, T, D] (false).
   * Default true.
   */
  readonly layerwiseContext?: boolean;
}

/**
 * Write the UNet.
 *
 * Inputs: `sample` [B, C, h, w]; `timestep` [B] (fractions allowed); `encoder_hidden_states` [B, L, T, D] or
 * [B, T, D], layers in the order of `transformerPlaces`; and the factors asked for.
 * Output: `noise_pred` [B, C, h, w].
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 */
export function buildUnet(
  weights: WeightSource,
  config: UnetConfig,
  { batch, latentHeight, latentWidth, tokens }: UnetSize,
  { layerwiseContext = true, ...options }: UnetOptions = {},
): Network {
  const net = new NetworkBuilder(weights, options);
  const { g } = net;
  const { blocks, crossAttentionDim: width } = config;
  const places = new Map(transformerPlaces(config).map((place, index) => [place.path, { ...place, index }]));
  const sample = g.input('sample', 'float32', [batch, config.inChannels, latentHeight, latentWidth]);
  const timestep = g.input('timestep', 'float32', [batch]);
  const context = g.input(
    'encoder_hidden_states',
    'float32',
    layerwiseContext ? [batch, places.size, tokens, width] : [batch, tokens, width],
  );
  const contexts = new Map<number, Value>();
  const contextOf = (index: number): Value => {
    if (!layerwiseContext) return context;
    const layer = contexts.get(index) ?? gather(g, context, g.constant(int64([], [index])), 1);
    contexts.set(index, layer);
    return layer;
  };
  const time = silu(g, timeEmbedding(net, reshape(g, timestep, [batch, 1]), config));
  const resnetAt = (x: Value, name: string, out: number): Value =>
    net.within(name, () => resnet(net, x, time, out, config));
  const transformerAt = (x: Value, name: string): Value =>
    net.within(name, () => {
      const place = places.get(net.path)!;
      return transformer(net, x, contextOf(place.index), place.numHeads, config);
    });

  let hidden = conv2d(net, sample, 'conv_in', { out: blocks[0]!.channels });
  const skips = [hidden];
  blocks.forEach(({ channels, crossAttention }, i) => {
    net.within(`down_blocks.${i}`, () => {
      for (let j = 0; j < config.layersPerBlock; j++) {
        hidden = resnetAt(hidden, `resnets.${j}`, channels);
        if (crossAttention) hidden = transformerAt(hidden, `attentions.${j}`);
        skips.push(hidden);
      }
      if (i === blocks.length - 1) return;
      hidden = downsample(net, hidden);
      skips.push(hidden);
    });
  });
  net.within('mid_block', () => {
    const channels = hidden.shape[1]!;
    hidden = resnetAt(hidden, 'resnets.0', channels);
    hidden = transformerAt(hidden, 'attentions.0');
    hidden = resnetAt(hidden, 'resnets.1', channels);
  });
  blocks.toReversed().forEach(({ channels, crossAttention }, i) => {
    net.within(`up_blocks.${i}`, () => {
      for (let j = 0; j <= config.layersPerBlock; j++) {
        const skip = skips.pop();
        if (skip === undefined) throw new ShapeError('internal: UNet has more up than down layers');
        hidden = resnetAt(concat(g, [hidden, skip], 1), `resnets.${j}`, channels);
        if (crossAttention) hidden = transformerAt(hidden, `attentions.${j}`);
      }
      if (i === blocks.length - 1) return;
      const [, , height, skipWidth] = skips.at(-1)!.shape as [number, number, number, number];
      hidden = upsample(net, hidden, height, skipWidth);
    });
  });
  hidden = normConv(
    net,
    hidden,
    { norm: 'conv_norm_out', conv: 'conv_out' },
    {
      out: config.outChannels,
      groups: config.normGroups,
      epsilon: config.normEpsilon,
    },
  );
  g.output('noise_pred', hidden);
  return net.finish();
}
