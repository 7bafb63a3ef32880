import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { describeAdapter } from '../../src/merging/adapter-report.ts';
import { allLayers, denseOf, randomAdapter, randomLycoris, scratch } from './random-adapters.ts';

const unet = (layerName: string) => ({
  module: { component: 'unet' as const, layerName },
  kernel: null,
  m: 6,
  n: 5,
});
const places = [
  ...[
    'up_blocks.3.attentions.2.proj_in',
    'mid_block.attentions.0.proj_in',
    'up_blocks.1.attentions.0.proj_in',
  ],
  ...['down_blocks.2.attentions.1.proj_in', 'down_blocks.0.attentions.0.proj_in', 'time_embedding.linear_1'],
  'conv_out',
].map(unet);
const text = {
  ...unet('text_model.encoder.layers.3.self_attn.v_proj'),
  module: { component: 'text_encoder' as const, layerName: 'text_model.encoder.layers.3.self_attn.v_proj' },
};
const spec = { seed: 1, rank: 2, loraAlpha: 1, dtype: 'F32' } as const;

describe('the report of an adapter', () => {
  it('goes from the text encoder down, over the middle, and up; what has no block comes last', async () => {
    const file = scratch('lora.safetensors');
    await writeAdapter(file, 'kohya', randomAdapter([...places, text], spec));
    const { blocks, kinds, architecture } = await describeAdapter(await loadAdapter(file));
    expect(blocks.map(({ block, layers }) => [block, layers])).toEqual([
      ['text_encoder', 1],
      ['IN01', 1],
      ['IN08', 1],
      ['MID', 1],
      ['OUT03', 1],
      ['OUT11', 1],
      ['other', 2],
    ]);
    expect(kinds).toEqual({ lora: 8 });
    expect(architecture).toBe('sd1');
  });

  it('has ranks and alphas in order, each once, and the norm of all changes of a block', async () => {
    const block = ['attn1.to_q', 'attn1.to_k', 'attn1.to_v'].map((name) =>
      unet(`mid_block.attentions.0.transformer_blocks.0.${name}`),
    );
    const made = [9, 3, 9].map((rank, i) => randomAdapter([block[i]!], { ...spec, rank, loraAlpha: 0.5 }));
    const file = scratch('lora.safetensors');
    await writeAdapter(file, 'kohya', { ...made[0]!, layers: made.flatMap(({ layers }) => layers) });
    const loaded = await loadAdapter(file);
    const layersOf = [...loaded.layers].map(
      ([id, layer], i) => [id, { ...layer, scale: (i === 1 ? 16 : 1) * layer.scale }] as const,
    );
    const adapter = { ...loaded, layers: new Map(layersOf) };
    const [report] = (await describeAdapter(adapter)).blocks;
    expect(report).toMatchObject({
      block: 'MID',
      layers: 3,
      ranks: [3, 9],
      loraAlphas: [0.5, 8],
      unmeasured: 0,
    });
    const squares = [...adapter.layers.values()].flatMap((layer) => [...denseOf(layer)]);
    expect(report!.norm).toBeCloseTo(Math.hypot(...squares), 4);
  });

  it('counts kinds of layers, and those that only a base could measure', async () => {
    const file = scratch('lora.safetensors');
    await writeAdapter(file, 'lycoris', randomLycoris(allLayers, spec));
    const adapter = await loadAdapter(file);
    const { kinds, blocks } = await describeAdapter(adapter);
    const counted: Record<string, number> = {};
    for (const { kind } of adapter.layers.values()) counted[kind] = (counted[kind] ?? 0) + 1;
    expect(kinds).toEqual(counted);
    expect(Object.keys(kinds).length).toBeGreaterThan(2);
    expect(blocks.reduce((sum, { layers }) => sum + layers, 0)).toBe(allLayers.length);
    expect(blocks.every(({ unmeasured }) => unmeasured === 0)).toBe(true);
    const scaled = {
      ...adapter,
      layers: new Map(
        [...adapter.layers].map(([id, layer]) => [id, { ...layer, kind: 'ia3', onInput: false }] as never),
      ),
    };
    const over = await describeAdapter(scaled as typeof adapter);
    expect(over.blocks.reduce((sum, { unmeasured }) => sum + unmeasured, 0)).toBe(allLayers.length);
    expect(over.blocks.every(({ norm }) => norm === 0)).toBe(true);
  });
});
