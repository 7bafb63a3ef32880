/**
 * The arithmetic promise for layers that are changes only against their base: DoRA, (IA)³ and Custom Diffusion, mixed
 * with plain LoRA and numbered files, at strengths of either sign. The expected weights are written out by plain loops.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AdapterLayer } from '../../src/adapters/adapter.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { positionalLayers } from '../../src/adapters/schemes/cloneofsimo.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { float32Tensor, type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { type MergeInput, mergeAdapters } from '../../src/merging/merge.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { allLayers, attentionLayers, denseOf, randomAdapter, scratch } from './random-adapters.ts';

const kinds = [
  'dora-outputs',
  'dora-inputs',
  'ia3-outputs',
  'ia3-inputs',
  'custom-diffusion',
  'lora',
] as const;
type Kind = (typeof kinds)[number];

const unetAttention = attentionLayers.filter(({ module }) => module.component === 'unet');

function drawer(seed: number) {
  const generator = new TorchGenerator(seed);
  return (shape: readonly number[], around = 0, spread = 1): RawTensor => {
    const values = generator.randn(shape.reduce((a, b) => a * b, 1)).map((value) => around + spread * value);
    return float32Tensor('random', shape, values);
  };
}

const draw = drawer(99);
const bases = new Map(
  allLayers.map(({ module, kernel, m, n }) => [
    adapterModuleId(module),
    draw(kernel === null ? [m, n] : [m, n, ...kernel]),
  ]),
);
const base = (module: AdapterLayer | { component: string; layerName: string }): RawTensor | undefined =>
  bases.get(`${module.component}:${module.layerName}`);

/** A file of one kind, and the weights that it makes at strength 1. */
async function randomFile(
  kind: Kind,
  seed: number,
): Promise<{ file: string; tuned: Map<string, Float64Array> }> {
  const own = drawer(seed);
  const file = scratch('adapter.safetensors');
  const tuned = new Map<string, Float64Array>();
  if (kind === 'custom-diffusion') {
    const weights = unetAttention.map(({ module, m, n }) => {
      const weight = own([m, n]);
      tuned.set(adapterModuleId(module), readFloat64(weight));
      return { ...weight, name: `unet.${module.layerName}.weight` };
    });
    await writeSafetensors(file, weights);
    return { file, tuned };
  }
  const plain = randomAdapter(allLayers, { seed, rank: 2, loraAlpha: 3, dtype: 'F32' });
  const layers = plain.layers.map((layer, i): AdapterLayer => {
    const { kernel, m, n } = allLayers[i]!;
    const area = kernel === null ? 1 : kernel[0] * kernel[1];
    const w0 = readFloat64(base(layer)!);
    const id = adapterModuleId(layer);
    const rest = kernel === null ? [] : [1, 1];
    if (kind.startsWith('ia3')) {
      const onInput = kind === 'ia3-inputs';
      const weight = own(onInput ? [n] : [m, 1, ...rest], 0, 0.3);
      const w = readFloat64(weight);
      tuned.set(
        id,
        w0.map(
          (value, at) =>
            value * (1 + w[onInput ? Math.floor((at % (n * area)) / area) : Math.floor(at / (n * area))]!),
        ),
      );
      const { component, layerName } = layer;
      const info = { component, layerName, scale: 1, rank: null, kernel, doraScale: null, biasDiff: null };
      return { ...info, kind: 'ia3', weight, onInput };
    }
    const change = denseOf(layer);
    const sum = w0.map((value, at) => value + change[at]!);
    if (kind === 'lora') {
      tuned.set(id, sum);
      return layer;
    }
    const perOutput = kind === 'dora-outputs';
    const magnitude = own(perOutput ? [m, 1, ...rest] : [1, n, ...rest], 4, 0.5);
    const wanted = readFloat64(magnitude);
    const group = (at: number): number =>
      perOutput ? Math.floor(at / (n * area)) : Math.floor((at % (n * area)) / area);
    const squares = new Float64Array(wanted.length);
    sum.forEach((value, at) => {
      squares[group(at)]! += value * value;
    });
    tuned.set(
      id,
      sum.map((value, at) => (value * wanted[group(at)]!) / Math.sqrt(squares[group(at)]!)),
    );
    return { ...layer, doraScale: magnitude };
  });
  await writeAdapter(file, kind === 'lora' ? 'kohya' : 'lycoris', { ...plain, layers });
  return { file, tuned };
}

const strength = fc.oneof(
  fc.double({ min: 1e-2, max: 2, noNaN: true }),
  fc.double({ min: -2, max: -1e-2, noNaN: true }),
);

describe('base plus a merged file is base plus Σ strength · (tuned − base)', () => {
  it.each(['cat', 'svd'] as const)('%s', async (method) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.constantFrom(...kinds), fc.nat(1e6), strength), { minLength: 1, maxLength: 3 }),
        async (chosen) => {
          const inputs: MergeInput[] = [];
          const changes = new Map<string, { sum: Float64Array; size: number }>();
          for (const [kind, seed, factor] of chosen) {
            const { file, tuned } = await randomFile(kind, seed);
            inputs.push({ adapter: await loadAdapter(file), strength: factor });
            for (const [id, weight] of tuned) {
              const before = readFloat64(bases.get(id)!);
              const own = weight.map((value, i) => factor * (value - before[i]!));
              const { sum, size } = changes.get(id) ?? { sum: new Float64Array(own.length), size: 0 };
              changes.set(id, {
                sum: sum.map((value, i) => value + own[i]!),
                size: size + Math.hypot(...own),
              });
            }
          }
          const { output } = await mergeAdapters(inputs, { method, base });
          const file = scratch('merged.safetensors');
          await writeAdapter(file, 'kohya', output);
          const merged = await loadAdapter(file);
          expect([...merged.layers.keys()].sort()).toEqual([...changes.keys()].sort());
          for (const [id, { sum, size }] of changes) {
            const dense = denseOf(merged.layers.get(id)!);
            // Terms that cancel leave the rounding of their parts.
            expect(Math.hypot(...dense.map((value, i) => value - sum[i]!))).toBeLessThanOrEqual(1e-6 * size);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('numbered files', async () => {
    const layers = [...positionalLayers('unet', 2), ...positionalLayers('text_encoder')].map((module) => ({
      module,
      kernel: null,
      m: 8,
      n: /attn2\.to_[kv]/.test(module.layerName) ? 6 : 8,
    }));
    await fc.assert(
      fc.asyncProperty(
        fc.array(strength, { minLength: 2, maxLength: 2 }),
        fc.nat(1e6),
        async (factors, seed) => {
          const inputs: MergeInput[] = [];
          for (const [i, factor] of factors.entries()) {
            const file = scratch('numbered.safetensors');
            await writeAdapter(
              file,
              'cloneofsimo',
              randomAdapter(layers, { seed: seed + i, rank: 1 + i, loraAlpha: 2, dtype: 'F32' }),
            );
            inputs.push({ adapter: await loadAdapter(file), strength: factor });
          }
          const { output } = await mergeAdapters(inputs);
          const file = scratch('merged.safetensors');
          await writeAdapter(file, 'cloneofsimo', output);
          for (const [id, layer] of (await loadAdapter(file)).layers) {
            const parts = inputs.map(({ adapter, strength: factor }) =>
              denseOf(adapter.layers.get(id)!).map((value) => factor! * value),
            );
            const sum = parts[0]!.map((value, i) => value + parts[1]![i]!);
            const size = parts.reduce((total, part) => total + Math.hypot(...part), 0);
            expect(Math.hypot(...denseOf(layer).map((value, i) => value - sum[i]!))).toBeLessThanOrEqual(
              1e-6 * size,
            );
          }
        },
      ),
      { numRuns: 3 },
    );
  });
});
