/** The arithmetic promise: a merged file is the sum of its inputs; converted files are their inputs. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { type LayerFormat, layerFormats, schemes } from '../../src/adapters/schemes/index.ts';
import { unsupportedBy, writeAdapter } from '../../src/adapters/write.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { type MergeInput, mergeAdapters } from '../../src/merging/merge.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { relativeError } from '../support/close.ts';
import {
  allLayers,
  attentionLayers,
  denseOf,
  type RandomSpec,
  randomAdapter,
  randomLycoris,
  scratch,
} from './random-adapters.ts';

const spec: fc.Arbitrary<RandomSpec> = fc.record({
  seed: fc.integer({ min: 0, max: 1e6 }),
  rank: fc.integer({ min: 1, max: 6 }),
  loraAlpha: fc.oneof(fc.constantFrom(1, 2, 4, 8), fc.double({ min: 0.1, max: 32, noNaN: true })),
  dtype: fc.constantFrom('F32', 'F16', 'BF16'),
});
const strength = fc.oneof(
  fc.constant(0),
  fc.double({ min: 1e-3, max: 2, noNaN: true }),
  fc.double({ min: -2, max: -1e-3, noNaN: true }),
);
/** Neither those that number their layers, nor those that have names of files alone. */
const writable = layerFormats.filter((format) => schemes[format].key !== null);

const targetOf = (format: LayerFormat): string => scratch(format === 'peft' ? 'adapter' : 'lora.safetensors');

/** Write in a scheme and read back. */
async function stored(format: LayerFormat, random: RandomSpec): Promise<Adapter> {
  const layers = format === 'diffusers-processor' || format === 'ed-lora' ? attentionLayers : allLayers;
  const output = format === 'lycoris' ? randomLycoris(layers, random) : randomAdapter(layers, random);
  const file = targetOf(format);
  expect(unsupportedBy(format, output)).toEqual([]);
  await writeAdapter(file, format, output);
  return loadAdapter(file);
}

/** Σ strength · ΔW per layer, from the files as read. */
function trueSum(inputs: readonly MergeInput[]): Map<string, Float64Array> {
  const total = new Map<string, Float64Array>();
  for (const { adapter, strength: factor = 1, textEncoderStrength = factor } of inputs) {
    for (const [id, layer] of adapter.layers) {
      const own = layer.component === 'unet' ? factor : textEncoderStrength;
      const sum = total.get(id);
      const dense = denseOf(layer).map((value) => own * value);
      total.set(id, sum === undefined ? dense : sum.map((value, i) => value + dense[i]!));
    }
  }
  return total;
}

describe('merged files apply as all inputs at their strengths', () => {
  it.each(['cat', 'svd'] as const)('%s', async (method) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.constantFrom(...writable), spec, strength, strength), {
          minLength: 1,
          maxLength: 3,
        }),
        async (chosen) => {
          const inputs: MergeInput[] = [];
          for (const [format, random, unet, text] of chosen) {
            inputs.push({ adapter: await stored(format, random), strength: unet, textEncoderStrength: text });
          }
          if (inputs.every((input) => input.strength === 0 && input.textEncoderStrength === 0)) {
            await expect(mergeAdapters(inputs, { method })).rejects.toThrow('every strength is 0');
            return;
          }
          const { output } = await mergeAdapters(inputs, { method });
          const file = targetOf('kohya');
          await writeAdapter(file, 'kohya', output);
          const merged = await loadAdapter(file);
          for (const [id, expected] of trueSum(inputs)) {
            const layer = merged.layers.get(id);
            // Strengths of exactly zero leave nothing to write.
            const dense = layer === undefined ? new Float64Array(expected.length) : denseOf(layer);
            // Terms that cancel leave the rounding of their parts.
            const parts = trueSum(
              inputs.map((input) => ({
                ...input,
                strength: Math.abs(input.strength!),
                textEncoderStrength: Math.abs(input.textEncoderStrength!),
              })),
            );
            const scale = Math.hypot(...parts.get(id)!);
            const error = Math.hypot(...dense.map((value, i) => value - expected[i]!));
            expect(error).toBeLessThanOrEqual(1e-6 * Math.max(scale, Math.hypot(...expected)));
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('round trips', () => {
  it.each(writable)('%s and back leaves every change', async (format) => {
    await fc.assert(
      fc.asyncProperty(spec, async (random) => {
        const first = await stored(format, random);
        const toKohya = await convertAdapter(first, 'kohya', { rank: 100 });
        const middle = targetOf('kohya');
        await writeAdapter(middle, 'kohya', toKohya.output);
        const back = await convertAdapter(await loadAdapter(middle), format);
        const last = targetOf(format);
        await writeAdapter(last, format, back.output);
        const again = await loadAdapter(last);
        expect([...again.layers.keys()].sort()).toEqual([...first.layers.keys()].sort());
        for (const [id, layer] of first.layers) {
          expect(relativeError(denseOf(again.layers.get(id)!), denseOf(layer))).toBeLessThan(1e-6);
        }
      }),
      { numRuns: 6 },
    );
  });

  it('copies factors bit for bit where alpha is stored or a power of two', async () => {
    for (const format of writable.filter((name) => name !== 'lycoris')) {
      const output = randomAdapter(attentionLayers, { seed: 3, rank: 4, loraAlpha: 8, dtype: 'F16' });
      const file = targetOf(format);
      await writeAdapter(file, format, output);
      const read = await loadAdapter(file);
      for (const layer of output.layers) {
        const other = read.layers.get(adapterModuleId(layer))!;
        if (layer.kind !== 'lora' || other.kind !== 'lora') throw new Error('expected LoRA');
        expect(other.up.dtype).toBe('F16');
        expect(readBytes(other.down)).toEqual(readBytes(layer.down));
        if (schemes[format].alpha !== 'none') expect(readBytes(other.up)).toEqual(readBytes(layer.up));
        else expect([...denseOf(other)]).toEqual([...denseOf(layer)]);
      }
    }
  });

  it('keeps LyCORIS layers what they are', async () => {
    const output = randomLycoris(allLayers, { seed: 5, rank: 2, loraAlpha: 3, dtype: 'F32' });
    const file = targetOf('lycoris');
    await writeAdapter(file, 'lycoris', output);
    const read = await loadAdapter(file);
    expect(read.scheme).toBe('lycoris');
    for (const layer of output.layers) {
      const other = read.layers.get(adapterModuleId(layer))!;
      expect(other.kind).toBe(layer.kind);
      expect([...denseOf(other)]).toEqual([...denseOf(layer)]);
    }
  });
});

describe('SDXL', () => {
  const layers = [
    ['unet', 'down_blocks.2.attentions.1.transformer_blocks.7.attn2.to_v'],
    ['unet', 'mid_block.attentions.0.proj_out'],
    ['text_encoder', 'text_model.encoder.layers.3.mlp.fc1'],
    ['text_encoder_2', 'text_model.encoder.layers.31.self_attn.q_proj'],
  ].map(([component, layerName]) => ({
    module: { component: component as 'unet', layerName: layerName! },
    kernel: null,
    m: 7,
    n: 5,
  }));

  it.each(['kohya', 'diffusers', 'diffusers-lora', 'peft', 'lycoris'] as const)(
    'goes through %s',
    async (format) => {
      const output = {
        ...randomAdapter(layers, { seed: 6, rank: 2, loraAlpha: 1, dtype: 'F32' }),
        architecture: 'sdxl' as const,
      };
      const file = targetOf(format);
      await writeAdapter(file, format, output);
      const read = await loadAdapter(file);
      expect(read.architecture).toBe('sdxl');
      expect(read.layers.size).toBe(layers.length);
      for (const layer of output.layers) {
        expect(relativeError(denseOf(read.layers.get(adapterModuleId(layer))!), denseOf(layer))).toBeLessThan(
          1e-6,
        );
      }
    },
  );

  it('does not fit schemes of SD 1.x alone', () => {
    const output = {
      ...randomAdapter(layers, { seed: 6, rank: 2, loraAlpha: 1, dtype: 'F32' }),
      architecture: 'sdxl' as const,
    };
    expect(unsupportedBy('cloneofsimo', output)).toHaveLength(layers.length);
    expect(unsupportedBy('ed-lora', output)).toEqual([]);
  });
});
