/** Blocks shared by the autoencoder's two halves. Every norm has epsilon 1e-6. Source: diffusers, models/autoencoders/vae.py. */
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { add } from '../../graph/ops/elementwise.ts';
import type { Value } from '../../graph/value.ts';
import { conv2d, groupNorm, linear, normConv, toImage, toTokens } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';
import type { VaeConfig } from './config.ts';

export const VAE_EPSILON = 1e-6;

/** x [B, C, H, W] → [B, out, H, W] */
export function vaeResnet(net: NetworkBuilder, x: Value, out: number, { normGroups }: VaeConfig): Value {
  const options = { out, groups: normGroups, epsilon: VAE_EPSILON };
  let hidden = normConv(net, x, { norm: 'norm1', conv: 'conv1' }, options);
  hidden = normConv(net, hidden, { norm: 'norm2', conv: 'conv2' }, options);
  const shortcut = x.shape[1] === out ? x : conv2d(net, x, 'conv_shortcut', { out, kernel: 1 });
  return add(net.g, shortcut, hidden);
}

/** Resnet, single-head self-attention over all positions, resnet. */
export function vaeMidBlock(net: NetworkBuilder, x: Value, config: VaeConfig): Value {
  const channels = x.shape[1]!;
  const [height, width] = x.shape.slice(2) as [number, number];
  return net.within('mid_block', () => {
    let hidden = net.within('resnets.0', () => vaeResnet(net, x, channels, config));
    if (config.midAttention) {
      hidden = net.within('attentions.0', () => {
        const normal = groupNorm(net, hidden, 'group_norm', {
          groups: config.normGroups,
          epsilon: VAE_EPSILON,
        });
        const tokens = toTokens(net, normal);
        const q = linear(net, tokens, 'to_q', { out: channels });
        const k = linear(net, tokens, 'to_k', { out: channels });
        const v = linear(net, tokens, 'to_v', { out: channels });
        const attended = linear(net, multiHeadAttention(net.g, { q, k, v }, 1), 'to_out.0', {
          out: channels,
        });
        return add(net.g, hidden, toImage(net, attended, height, width));
      });
    }
    return net.within('resnets.1', () => vaeResnet(net, hidden, channels, config));
  });
}
