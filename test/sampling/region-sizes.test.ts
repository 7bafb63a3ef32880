/** In models that read a picture's sizes, a region that keeps to itself is drawn as a picture of its own size, and told so. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { ownSize, type RegionShape } from '../../src/sampling/region.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { familiesPath } from '../support/goldens.ts';
import { sideBySide, squareOf } from '../support/squares.ts';

const box = (left: number, right: number, top = 0, bottom = 1): RegionShape => ({
  kind: 'box',
  box: { top, left, bottom, right },
});

describe('the own size of a region', () => {
  const picture = { width: 64, height: 32 };
  const maskOf = (value: (x: number, y: number) => number): RegionShape => ({
    kind: 'mask',
    mask: {
      width: 8,
      height: 4,
      data: Float32Array.from({ length: 32 }, (_, i) => value(i % 8, Math.floor(i / 8))),
    },
  });

  it.each<[string, RegionShape, object]>([
    ['that of whole cells', box(0.25, 1), { width: 48, height: 32 }],
    ['that of the cells inside a box', box(0.2, 0.8, 0.5, 1), { width: 32, height: 16 }],
    ['the picture’s, of a mask that is everywhere', maskOf(() => 0.3), picture],
    [
      'a box’s, of a mask of its cells',
      maskOf((x, y) => (x < 3 && y > 1 ? 1 : 0)),
      { width: 24, height: 16 },
    ],
    [
      'between two boxes’, of a soft mask',
      maskOf((x) => (x < 3 ? 1 : x < 5 ? 0.5 : 0)),
      { width: 32, height: 32 },
    ],
    ['that of one cell', maskOf((x, y) => (x === 7 && y === 3 ? 1 : 0)), { width: 8, height: 8 }],
    ['that of the parts of a mask', maskOf((x) => (x === 0 || x === 7 ? 1 : 0)), { width: 16, height: 32 }],
  ])('is %s', (_, shape, size) => {
    expect(ownSize(shape, picture, 8)).toEqual(size);
  });
});

describe('regions of SDXL', () => {
  const SIDE = 32;
  const CHANNELS = 4;
  const PROMPTS = ['a photo of a cat', 'the castle'];
  const REQUEST = { width: SIDE, height: SIDE, steps: 3, guidanceScale: 3, seed: 3 };
  let pipeline: Pipeline;
  beforeAll(async () => {
    pipeline = await Pipeline.create(await openCheckpoint(familiesPath('sdxl', 'model')));
  });
  afterAll(() => pipeline.dispose());

  /** Latents of two squares side by side, and of each as a picture of its own with the same noise. */
  async function squares(
    request: Partial<SampleRequest>,
  ): Promise<{ inScene: Float32Array; alone: Float32Array }[]> {
    const cells = SIDE / pipeline.factor;
    const noises = PROMPTS.map((_, i) => new TorchGenerator(i).randn(CHANNELS * cells ** 2));
    const row = sideBySide(noises, cells);
    const regions = PROMPTS.map((prompt, i) => ({ prompt, shape: box(i / 2, (i + 1) / 2) }));
    const wide = { ...REQUEST, ...request, prompt: '', width: 2 * SIDE, initialNoise: [row], regions };
    const [scene] = await pipeline.sample(wide);
    const pairs = [];
    for (const [i, prompt] of PROMPTS.entries()) {
      const { isolate: _, ...plain } = request;
      const [own] = await pipeline.sample({ ...REQUEST, ...plain, prompt, initialNoise: [noises[i]!] });
      const inScene = squareOf(scene!.latents.data, i, 2, cells);
      pairs.push({ inScene, alone: own!.latents.data });
    }
    return pairs;
  }

  it.each([
    ['', {}],
    [' where its origin is told', { originalSize: { width: 100, height: 90 }, crop: { left: 3, top: 5 } }],
    [' where the size is told', { targetSize: { width: 20, height: 30 } }],
    [' where other sizes are told of what it does not show', { negativeSizes: { width: 24, height: 40 } }],
  ])('that keep to themselves are the pictures of their size%s', async (_, sizes) => {
    for (const { inScene, alone } of await squares({ isolate: 1, ...sizes })) {
      expect(inScene).toBeAllClose(alone, { rtol: 1e-4, atol: 1e-4 });
    }
  });

  it('are told of the whole picture where they do not keep to themselves', async () => {
    const scene = { ...REQUEST, prompt: 'a dog', width: 2 * SIDE };
    const whole = { ...scene, regions: [{ prompt: 'a dog', shape: box(0, 0.5) }] };
    const [plain] = await pipeline.sample(scene);
    const [shared] = await pipeline.sample(whole);
    expect(shared!.latents.data).toBeAllClose(plain!.latents.data, { rtol: 1e-4, atol: 1e-4 });
    const [apart] = await pipeline.sample({ ...whole, isolate: 1 });
    expect(apart!.latents.data).not.toBeAllClose(plain!.latents.data, { rtol: 1e-4, atol: 1e-4 });
  });
});
