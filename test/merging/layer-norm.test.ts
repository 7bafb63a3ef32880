/** Norms from factors are those of the change written out, and cost no more than the factors. */
import { describe, expect, it } from 'vitest';
import type { Adapter, AdapterLayer } from '../../src/adapters/adapter.ts';
import { layerDelta } from '../../src/adapters/delta.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { describeAdapter } from '../../src/merging/adapter-report.ts';
import { squaredNormSteps } from '../../src/merging/layer-norm.ts';
import { inOneGo } from '../../src/pace.ts';
import { allLayers, denseOf, randomAdapter, randomLycoris } from './random-adapters.ts';

const spec = { seed: 3, rank: 3, loraAlpha: 2, dtype: 'F32' } as const;

function squaresOf(layer: AdapterLayer): number {
  return denseOf(layer).reduce((sum, value) => sum + value * value, 0);
}

describe('the norm of a layer', () => {
  it('is that of its change, for every kind', () => {
    const layers = [
      ...randomAdapter(allLayers, spec).layers,
      ...randomLycoris(allLayers, spec).layers,
      // More factors than rows.
      ...randomAdapter(allLayers, { ...spec, rank: 40 }).layers,
    ];
    for (const layer of layers) {
      expect(
        inOneGo(squaredNormSteps(layer)) / squaresOf(layer),
        `${layer.kind} ${layer.layerName}`,
      ).toBeCloseTo(1, 9);
    }
  });

  it('over a base counts its scale as its change does', () => {
    const layer: AdapterLayer = {
      component: 'unet',
      layerName: 'mid_block.attentions.0.proj_in',
      kind: 'ia3',
      weight: float32Tensor('w', [2], Float32Array.of(1, 2)),
      onInput: false,
      rank: null,
      scale: 3,
      kernel: null,
      doraScale: null,
      biasDiff: null,
    };
    const base = float32Tensor('base', [2, 1], Float32Array.of(1, 1));
    // 3² · (1² + 2²)
    expect(inOneGo(squaredNormSteps(layer, base))).toBeCloseTo(45, 9);
  });

  it('of a Kronecker product of full size takes no memory for it', async () => {
    const values = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i) / 10);
    const module = {
      component: 'unet' as const,
      layerName: 'mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj',
    };
    const layer: AdapterLayer = {
      ...module,
      kind: 'lokr',
      w1: { full: float32Tensor('w1', [128, 32], values(4096)) },
      w2: { full: float32Tensor('w2', [80, 40], values(3200)) },
      rank: null,
      scale: 1,
      kernel: null,
      doraScale: null,
      biasDiff: null,
    };
    const layers = new Map(
      Array.from({ length: 64 }, (_, i) => {
        const layerName = module.layerName.replace('blocks.0', `blocks.${i}`);
        return [`unet:${layerName}`, { ...layer, layerName }] as const;
      }),
    );
    const adapter: Adapter = {
      path: '/a.safetensors',
      files: [],
      scheme: 'lycoris',
      architecture: 'sdxl',
      layers,
      words: [],
      stray: [],
      metadata: new Map(),
      unusable: [],
    };
    const start = performance.now();
    const before = process.memoryUsage.rss();
    const { blocks } = await describeAdapter(adapter);
    expect(blocks[0]!.norm).toBeGreaterThan(0);
    // Written out they would be 64 times 100 MB, and minutes.
    expect(performance.now() - start).toBeLessThan(5000);
    expect(process.memoryUsage.rss() - before).toBeLessThan(100e6);
  });

  it('stops when it is told to', async () => {
    const { layers: own } = randomAdapter(allLayers, spec);
    const layers = new Map(own.map((layer) => [layer.layerName, layer]));
    const adapter = { architecture: 'sd1', layers, words: [] } as unknown as Adapter;
    const stop = AbortSignal.abort(new Error('stopped'));
    await expect(describeAdapter(adapter, undefined, stop)).rejects.toThrow('stopped');
  });

  it('and the change itself refuse layers that a program made too large', () => {
    const layer: AdapterLayer = {
      component: 'unet',
      layerName: 'mid_block.attentions.0.proj_in',
      kind: 'lora',
      up: float32Tensor('up', [50_000, 1], new Float32Array(50_000)),
      down: float32Tensor('down', [1, 50_000], new Float32Array(50_000)),
      mid: null,
      rank: 1,
      scale: 1,
      kernel: null,
      doraScale: null,
      biasDiff: null,
    };
    expect(() => inOneGo(squaredNormSteps(layer))).toThrow(/at most \[1280, 1280\].*got \[50000, 50000\]/);
    expect(() => layerDelta(layer)).toThrow(/at most \[1280, 1280\].*got \[50000, 50000\]/);
  });
});
