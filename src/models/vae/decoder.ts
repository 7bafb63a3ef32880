/** Latents to pictures. Source: diffusers, models/autoencoders/autoencoder_kl.py. */
import { resizeNearest } from '../../graph/ops/convolution.ts';
import { conv2d, normConv } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';
import { VAE_EPSILON, vaeMidBlock, vaeResnet } from './blocks.ts';
import type { VaeConfig } from './config.ts';

export interface LatentSize {
  readonly batch: number;
  readonly latentHeight: number;
  readonly latentWidth: number;
}

/**
 * Write the decoder. Input: `latents` [B, 4, h, w], already divided by the scaling factor.
 * Output: `image` [B, 3, 8·h, 8·w], about [−1, 1], not clamped.
 */
export function buildVaeDecoder(weights: WeightSource, config: VaeConfig, size: LatentSize): Network {
  const net = new NetworkBuilder(weights);
  const { latentChannels, blockChannels } = config;
  const shape = [size.batch, latentChannels, size.latentHeight, size.latentWidth];
  let x = net.g.input('latents', 'float32', shape);
  if (config.postQuantConv) x = conv2d(net, x, 'post_quant_conv', { out: latentChannels, kernel: 1 });
  net.within('decoder', () => {
    x = conv2d(net, x, 'conv_in', { out: blockChannels.at(-1)! });
    x = vaeMidBlock(net, x, config);
    blockChannels.toReversed().forEach((channels, i) => {
      net.within(`up_blocks.${i}`, () => {
        for (let j = 0; j <= config.layersPerBlock; j++) {
          x = net.within(`resnets.${j}`, () => vaeResnet(net, x, channels, config));
        }
        if (i === blockChannels.length - 1) return;
        const doubled = resizeNearest(net.g, x, 2 * x.shape[2]!, 2 * x.shape[3]!);
        x = conv2d(net, doubled, 'upsamplers.0.conv', { out: channels });
      });
    });
    const norms = { norm: 'conv_norm_out', conv: 'conv_out' };
    x = normConv(net, x, norms, { out: config.outChannels, groups: config.normGroups, epsilon: VAE_EPSILON });
  });
  net.g.output('image', x);
  return net.finish();
}
