/**
 * ControlNet: the UNet’s first half once more, with the guiding picture added, to residuals for the skip connections and
 * the middle. Source: diffusers, models/controlnets/controlnet.py; Zhang et al. 2023 (2302.05543).
 */
import { add, silu } from '../../graph/ops/elementwise.ts';
import { conv2d } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';
import { contextAttentions } from '../unet/attention.ts';
import { blockWriter, downAndMiddle } from '../unet/down-path.ts';
import { timeEmbedding, wholeTime } from '../unet/time-embedding.ts';
import { CONTROL_MIDDLE_INPUT, contextInput, controlDownInput, type UnetSize } from '../unet/unet.ts';
import type { ControlNetConfig } from './config.ts';

/**
 * Write the embedding of the guiding picture, which is computed once.
 * Input: `image` [1, 3, H, W] in [0, 1]. Output: `condition` [1, C₀, H/8, W/8].
 */
export function buildConditionEmbedding(
  weights: WeightSource,
  config: ControlNetConfig,
  { imageHeight, imageWidth }: { readonly imageHeight: number; readonly imageWidth: number },
): Network {
  const net = new NetworkBuilder(weights);
  const { g } = net;
  const { embeddingChannels: channels, conditioningChannels, unet } = config;
  const image = g.input('image', 'float32', [1, conditioningChannels, imageHeight, imageWidth]);
  net.within('controlnet_cond_embedding', () => {
    let x = silu(g, conv2d(net, image, 'conv_in', { out: channels[0]! }));
    for (let i = 0; i < channels.length - 1; i++) {
      x = silu(g, conv2d(net, x, `blocks.${2 * i}`, { out: channels[i]! }));
      x = silu(g, conv2d(net, x, `blocks.${2 * i + 1}`, { out: channels[i + 1]!, stride: 2 }));
    }
    g.output('condition', conv2d(net, x, 'conv_out', { out: unet.blocks[0]!.channels }));
  });
  return net.finish();
}

/**
 * Write the ControlNet.
 * Inputs: `sample` [B, C, h, w]; `timestep` [B] and what the UNet reads beside it; `encoder_hidden_states` [B, L, T, D]; `condition` [1, C₀, h, w].
 * Outputs, named as the inputs of the UNet that they go to: `controlDownInput(i)` for every skip connection, and
 * `CONTROL_MIDDLE_INPUT`.
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 */
export function buildControlNet(
  weights: WeightSource,
  { unet: config }: ControlNetConfig,
  size: UnetSize,
): Network {
  const net = new NetworkBuilder(weights);
  const { g } = net;
  const { batch, latentHeight, latentWidth } = size;
  const out = config.blocks[0]!.channels;
  const sample = g.input('sample', 'float32', [batch, config.inChannels, latentHeight, latentWidth]);
  const time = wholeTime(timeEmbedding(net, config, batch));
  const attentions = contextAttentions(contextInput(g, config, size, true));
  const condition = g.input('condition', 'float32', [1, out, latentHeight, latentWidth]);
  const first = add(g, conv2d(net, sample, 'conv_in', { out }), condition);
  const write = blockWriter(net, config, time, attentions);
  const { hidden, skips } = downAndMiddle(net, config, write, first);
  skips.forEach((skip, i) => {
    const residual = conv2d(net, skip, `controlnet_down_blocks.${i}`, { out: skip.shape[1]!, kernel: 1 });
    g.output(controlDownInput(i), residual);
  });
  const middle = conv2d(net, hidden, 'controlnet_mid_block', { out: hidden.shape[1]!, kernel: 1 });
  g.output(CONTROL_MIDDLE_INPUT, middle);
  return net.finish();
}
