/** Pictures to latents. Source: diffusers, models/autoencoders/autoencoder_kl.py. */
import { split } from '../../graph/ops/movement.ts';
import { conv2d, normConv } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';
import { VAE_EPSILON, vaeMidBlock, vaeResnet } from './blocks.ts';
import type { VaeConfig } from './config.ts';

export interface ImageSize {
  readonly batch: number;
  /** Pixels, divisible by the autoencoder's factor. */
  readonly imageHeight: number;
  readonly imageWidth: number;
}

/**
 * Write the encoder. Input: `image` [B, 3, H, W] in [−1, 1]. Outputs: `mean` and `logvar` [B, 4, H/8, W/8] of the
 * latents, neither clamped nor multiplied by the scaling factor.
 */
export function buildVaeEncoder(weights: WeightSource, config: VaeConfig, size: ImageSize): Network {
  const net = new NetworkBuilder(weights);
  const image = net.g.input('image', 'float32', [
    size.batch,
    config.inChannels,
    size.imageHeight,
    size.imageWidth,
  ]);
  const moments = 2 * config.latentChannels;
  let hidden = net.within('encoder', () => {
    let x = conv2d(net, image, 'conv_in', { out: config.blockChannels[0]! });
    config.blockChannels.forEach((channels, i) => {
      net.within(`down_blocks.${i}`, () => {
        for (let j = 0; j < config.layersPerBlock; j++) {
          x = net.within(`resnets.${j}`, () => vaeResnet(net, x, channels, config));
        }
        if (i === config.blockChannels.length - 1) return;
        // Padded at the bottom and right only.
        x = conv2d(net, x, 'downsamplers.0.conv', { out: channels, stride: 2, pads: [0, 0, 1, 1] });
      });
    });
    x = vaeMidBlock(net, x, config);
    const norms = { norm: 'conv_norm_out', conv: 'conv_out' };
    return normConv(net, x, norms, { out: moments, groups: config.normGroups, epsilon: VAE_EPSILON });
  });
  if (config.quantConv) hidden = conv2d(net, hidden, 'quant_conv', { out: moments, kernel: 1 });
  const [mean, logvar] = split(net.g, hidden, [config.latentChannels, config.latentChannels], 1);
  net.g.output('mean', mean!);
  net.g.output('logvar', logvar!);
  return net.finish();
}
