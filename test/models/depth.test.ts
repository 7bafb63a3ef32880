/** Transformers of more than one block: a random miniature, as SDXL's UNet is built but small. */
import { describe, expect, it } from 'vitest';
import { isLinear } from '../../src/models/families/layer-table.ts';
import { unetLayers } from '../../src/models/unet/changeable-layers.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { attentionPlaces } from '../../src/models/unet/structure.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { namedWeights } from '../support/named-weights.ts';

const json = {
  block_out_channels: [8, 16, 16],
  down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
  up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
  layers_per_block: 1,
  transformer_layers_per_block: [1, 1, 2],
  attention_head_dim: [1, 2, 4],
  cross_attention_dim: 6,
  norm_num_groups: 4,
  sample_size: 8,
};
const config = unetSchema.parse(json);

describe('a UNet whose transformers have several blocks', () => {
  const places = attentionPlaces(config);

  it('numbers its cross-attentions block by block: down, middle, up', () => {
    expect(places.map(({ path }) => path)).toEqual([
      'down_blocks.1.attentions.0.transformer_blocks.0',
      'down_blocks.2.attentions.0.transformer_blocks.0',
      'down_blocks.2.attentions.0.transformer_blocks.1',
      'mid_block.attentions.0.transformer_blocks.0',
      'mid_block.attentions.0.transformer_blocks.1',
      'up_blocks.0.attentions.0.transformer_blocks.0',
      'up_blocks.0.attentions.0.transformer_blocks.1',
      'up_blocks.0.attentions.1.transformer_blocks.0',
      'up_blocks.0.attentions.1.transformer_blocks.1',
      'up_blocks.1.attentions.0.transformer_blocks.0',
      'up_blocks.1.attentions.1.transformer_blocks.0',
    ]);
    expect(places.map(({ index }) => index)).toEqual(places.map((_, i) => i));
    expect(places.map(({ numHeads }) => numHeads)).toEqual([2, 4, 4, 4, 4, 4, 4, 4, 4, 2, 2]);
    const contexts = unetLayers(config).filter(({ contextIndex }) => contextIndex !== null);
    expect(contexts.map(({ layerName, contextIndex }) => [layerName, contextIndex])).toEqual(
      places.flatMap(({ path, index }) => [
        [`${path}.attn2.to_k`, index],
        [`${path}.attn2.to_v`, index],
      ]),
    );
  });

  it('runs, and every layer of the table is one of the graph', async () => {
    const layers = unetLayers(config);
    const ranks = new Map(layers.map(({ layerName }) => [layerName, 1]));
    const size = { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 5 };
    const inputs = layers.filter(isLinear).map(({ layerName }) => layerName);
    const network = buildUnet(namedWeights, config, size, { loraRanks: ranks, probes: { inputs } });
    const factors = layers.flatMap(({ layerName, m, n }) => [
      [`${layerName}.lora_down`, float32([1, n])] as const,
      [`${layerName}.lora_up`, float32([m, 1])] as const,
    ]);
    const session = await defaultRuntime().load(network.graph, 'every-step');
    try {
      const predict = async (changed: number | null): Promise<Float32Array> => {
        const context = new TorchGenerator(2).randn(places.length * 5 * 6);
        if (changed !== null) for (let i = 0; i < 30; i++) context[changed * 30 + i]! += 1;
        const out = await session.run({
          sample: float32([1, 4, 8, 8], new TorchGenerator(3).randn(4 * 64)),
          timestep: float32([1], [500]),
          encoder_hidden_states: float32([1, places.length, 5, 6], context),
          ...Object.fromEntries(factors),
        });
        return (out.noise_pred!.data as Float32Array).slice();
      };
      const plain = await predict(null);
      expect(plain.every(Number.isFinite)).toBe(true);
      // Each cross-attention reads its own context: none is left unread.
      for (const { index, path } of places) expect(await predict(index), path).not.toEqual(plain);
    } finally {
      await session.dispose();
    }
  });
});

describe('the depth in a configuration', () => {
  it('is one number, or one per down block', () => {
    expect(unetSchema.parse({ ...json, transformer_layers_per_block: 2 }).blocks[0]!.transformerDepth).toBe(
      2,
    );
    expect(() => unetSchema.parse({ ...json, transformer_layers_per_block: [1, 2] })).toThrow(
      /per down block/,
    );
    expect(() => unetSchema.parse({ ...json, transformer_layers_per_block: [1, [2, 1], 1] })).toThrow();
  });
});
