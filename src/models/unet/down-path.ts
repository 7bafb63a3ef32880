/** The first half of the UNet, which a ControlNet repeats with weights of its own: down blocks and middle. */
import { add } from '../../graph/ops/elementwise.ts';
import type { Value } from '../../graph/value.ts';
import type { NetworkBuilder } from '../network.ts';
import { isAddedBehind } from './adapter-features.ts';
import type { Attentions } from './attention.ts';
import { downsample, resnet, transformer } from './blocks.ts';
import type { UnetConfig } from './config.ts';
import { transformerPlaces } from './structure.ts';
import type { TimeWriter } from './time-embedding.ts';

/** Resnets and transformers of one network, by the name of the layer in the current scope. */
export interface BlockWriter {
  resnet(x: Value, name: string, out: number): Value;
  transformer(x: Value, name: string): Value;
}

export function blockWriter(
  net: NetworkBuilder,
  config: UnetConfig,
  time: TimeWriter,
  attentions: Attentions,
): BlockWriter {
  const places = new Map(transformerPlaces(config).map((place) => [place.path, place]));
  return {
    resnet: (x, name, out) => net.within(name, () => resnet(net, x, time, out, config)),
    transformer: (x, name) =>
      net.within(name, () => transformer(net, x, places.get(net.path)!, attentions, config)),
  };
}

/**
 * Down blocks and middle.
 * @param hidden   the first convolution's output, [B, C₀, h, w]
 * @param features of a T2I-Adapter, as adapter-features.ts says; default none
 * @returns the middle's output (the last block's where there is none), and what the second half takes up again, in order
 */
export function downAndMiddle(
  net: NetworkBuilder,
  config: UnetConfig,
  write: BlockWriter,
  hidden: Value,
  features: readonly Value[] = [],
): { hidden: Value; skips: Value[] } {
  const { blocks, layersPerBlock, middle = true } = config;
  const skips = [hidden];
  const withFeature = (x: Value, i: number): Value =>
    features[i] === undefined ? x : add(net.g, x, features[i]);
  blocks.forEach(({ channels, crossAttention }, i) => {
    net.within(`down_blocks.${i}`, () => {
      for (let j = 0; j < layersPerBlock; j++) {
        hidden = write.resnet(hidden, `resnets.${j}`, channels);
        if (crossAttention) hidden = write.transformer(hidden, `attentions.${j}`);
        if (j === layersPerBlock - 1 && !isAddedBehind(config, i)) hidden = withFeature(hidden, i);
        skips.push(hidden);
      }
      if (i === blocks.length - 1) return;
      hidden = downsample(net, hidden);
      if (isAddedBehind(config, i)) hidden = withFeature(hidden, i);
      skips.push(hidden);
    });
  });
  if (middle) {
    net.within('mid_block', () => {
      const channels = hidden.shape[1]!;
      hidden = write.resnet(hidden, 'resnets.0', channels);
      hidden = write.transformer(hidden, 'attentions.0');
      hidden = write.resnet(hidden, 'resnets.1', channels);
    });
  }
  return { hidden: withFeature(hidden, blocks.length), skips };
}
