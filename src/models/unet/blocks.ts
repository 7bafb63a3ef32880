/**
 * The UNet's building blocks: residual block, transformer, down- and up-sampling.
 * Source: diffusers, models/resnet.py, models/attention.py, models/transformers/transformer_2d.py.
 */
import { resizeNearest } from '../../graph/ops/convolution.ts';
import { add, gelu, mul } from '../../graph/ops/elementwise.ts';
import { split } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { conv2d, groupNorm, layerNorm, linear, normConv, toImage, toTokens } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';
import type { Attentions } from './attention.ts';
import type { UnetConfig } from './config.ts';
import type { AttentionPlace, TransformerPlace } from './structure.ts';
import type { TimeWriter } from './time-embedding.ts';

/** x [B, C, H, W] → [B, out, H, W] */
export function resnet(
  net: NetworkBuilder,
  x: Value,
  time: TimeWriter,
  out: number,
  config: UnetConfig,
): Value {
  const { g } = net;
  const options = { out, groups: config.normGroups, epsilon: config.normEpsilon };
  const [, channels, height, width] = x.shape as [number, number, number, number];
  let hidden = normConv(net, x, { norm: 'norm1', conv: 'conv1' }, options);
  hidden = add(g, hidden, time(net, 'time_emb_proj', { out, height, width }));
  hidden = normConv(net, hidden, { norm: 'norm2', conv: 'conv2' }, options);
  const shortcut = channels === out ? x : conv2d(net, x, 'conv_shortcut', { out, kernel: 1 });
  return add(g, shortcut, hidden);
}

/** Spatial transformer: x [B, C, H, W] → [B, C, H, W]. */
export function transformer(
  net: NetworkBuilder,
  x: Value,
  { blocks }: TransformerPlace,
  attentions: Attentions,
  config: UnetConfig,
): Value {
  const { g } = net;
  const [, channels, height, width] = x.shape as [number, number, number, number];
  // Entry norm: epsilon 1e-6, whatever the config says for the resnets.
  const normal = groupNorm(net, x, 'norm', { groups: config.normGroups, epsilon: 1e-6 });
  // proj_in and proj_out are 1×1 convolutions or linears; over tokens they are the same thing.
  let hidden = linear(net, toTokens(net, normal), 'proj_in', { out: channels });
  blocks.forEach((place, i) => {
    hidden = net.within(`transformer_blocks.${i}`, () => transformerBlock(net, hidden, place, attentions));
  });
  return add(g, toImage(net, linear(net, hidden, 'proj_out', { out: channels }), height, width), x);
}

/** Self-attention, cross-attention and feed-forward, each behind a layer norm and beside a residual: x [B, N, C]. */
function transformerBlock(
  net: NetworkBuilder,
  x: Value,
  place: AttentionPlace,
  attentions: Attentions,
): Value {
  const { g } = net;
  const own = layerNorm(net, x, 'norm1');
  let h = add(
    g,
    x,
    net.within('attn1', () => attentions.self(net, own, place)),
  );
  const query = layerNorm(net, h, 'norm2');
  h = add(
    g,
    h,
    net.within('attn2', () => attentions.cross(net, query, place)),
  );
  return add(g, h, feedForward(net, layerNorm(net, h, 'norm3')));
}

/** GEGLU feed-forward: the second half of the first projection gates, through exact GELU. */
function feedForward(net: NetworkBuilder, x: Value): Value {
  const channels = x.shape[2]!;
  return net.within('ff.net', () => {
    const projected = linear(net, x, '0.proj', { out: 8 * channels });
    const [value, gate] = split(net.g, projected, [4 * channels, 4 * channels], 2);
    return linear(net, mul(net.g, value!, gelu(net.g, gate!)), '2', { out: channels });
  });
}

export function downsample(net: NetworkBuilder, x: Value): Value {
  return conv2d(net, x, 'downsamplers.0.conv', { out: x.shape[1]!, stride: 2 });
}

/** Enlarges to the given size: the skip connection's, which for odd sizes is not exactly twice. */
export function upsample(net: NetworkBuilder, x: Value, height: number, width: number): Value {
  return conv2d(net, resizeNearest(net.g, x, height, width), 'upsamplers.0.conv', { out: x.shape[1]! });
}
