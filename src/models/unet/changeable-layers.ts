/** The UNet's rows of the layer table. */
import { type Layer, type LayerRole, layerOf } from '../families/layer-table.ts';
import type { UnetConfig } from './config.ts';
import { resnetPlaces, transformerPlaces } from './structure.ts';

const ONE = [1, 1] as const;
const THREE = [3, 3] as const;

/** Linear layers and 1×1 convolutions in declared order, then the 3×3 convolutions. */
export function unetLayers(config: UnetConfig): Layer[] {
  return [...linearLayers(config), ...convolutions(config)];
}

function linearLayers(config: UnetConfig): Layer[] {
  const layers: Layer[] = [];
  const add = (
    name: string,
    shape: readonly [number, number],
    role: LayerRole,
    rest: Partial<Pick<Layer, 'kernel' | 'contextIndex'>> = {},
  ): void => {
    layers.push(layerOf('unet', name, shape, role, rest));
  };
  const projection = { kernel: config.linearProjection ? null : ONE };
  for (const { path, channels: c, blocks } of transformerPlaces(config)) {
    add(`${path}.proj_in`, [c, c], 'projection', projection);
    for (const { path: block, index } of blocks) {
      const context = config.crossAttentionDim;
      add(`${block}.attn1.to_q`, [c, c], 'self-attention');
      add(`${block}.attn1.to_k`, [c, c], 'self-attention');
      add(`${block}.attn1.to_v`, [c, c], 'self-attention');
      add(`${block}.attn1.to_out.0`, [c, c], 'self-attention');
      add(`${block}.attn2.to_q`, [c, c], 'cross-attention');
      add(`${block}.attn2.to_k`, [c, context], 'context', { contextIndex: index });
      add(`${block}.attn2.to_v`, [c, context], 'context', { contextIndex: index });
      add(`${block}.attn2.to_out.0`, [c, c], 'cross-attention');
      add(`${block}.ff.net.0.proj`, [8 * c, c], 'feed-forward');
      add(`${block}.ff.net.2`, [c, 4 * c], 'feed-forward');
    }
    add(`${path}.proj_out`, [c, c], 'projection', projection);
  }
  const time = 4 * config.blocks[0]!.channels;
  add('time_embedding.linear_1', [time, config.blocks[0]!.channels], 'time');
  add('time_embedding.linear_2', [time, time], 'time');
  if (config.addedInputs !== undefined) {
    add('add_embedding.linear_1', [time, config.addedInputs], 'time');
    add('add_embedding.linear_2', [time, time], 'time');
  }
  for (const { path, inChannels, channels } of resnetPlaces(config)) {
    add(`${path}.time_emb_proj`, [channels, time], 'time');
    if (inChannels !== channels) {
      add(`${path}.conv_shortcut`, [channels, inChannels], 'resnet', { kernel: ONE });
    }
  }
  return layers;
}

function convolutions(config: UnetConfig): Layer[] {
  const { blocks } = config;
  const last = blocks.length - 1;
  const layers: Layer[] = [];
  const add = (name: string, out: number, channels: number, role: LayerRole): void => {
    layers.push(layerOf('unet', name, [out, 9 * channels], role, { kernel: THREE }));
  };
  add('conv_in', blocks[0]!.channels, config.inChannels, 'edge');
  for (const { path, inChannels, channels } of resnetPlaces(config)) {
    add(`${path}.conv1`, channels, inChannels, 'resnet');
    add(`${path}.conv2`, channels, channels, 'resnet');
  }
  blocks.forEach(({ channels }, i) => {
    if (i === last) return;
    add(`down_blocks.${i}.downsamplers.0.conv`, channels, channels, 'resampling');
    const up = blocks[last - i]!.channels;
    add(`up_blocks.${i}.upsamplers.0.conv`, up, up, 'resampling');
  });
  add('conv_out', config.outChannels, blocks[0]!.channels, 'edge');
  return layers;
}
