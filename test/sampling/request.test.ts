/** What may be asked for: each bound is allowed, what lies beyond is refused with both numbers, and no network is loaded. */
import { beforeAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import type { Picture } from '../../src/formats/picture.ts';
import type { T2iAdapter } from '../../src/models/adapter/open.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase } from '../../src/package-root.ts';
import { type ResolvedRequest, resolveRequest, type SampleRequest } from '../../src/sampling/request.ts';
import { maskCount } from '../../src/sampling/request-memory.ts';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(defaultBase());
});
const FACTOR = 8;
const LAYERS = 16;
const resolved = (given: Partial<SampleRequest>): ResolvedRequest =>
  resolveRequest({ prompt: 'a cat', ...given }, base, FACTOR, LAYERS);

const ALL = { kind: 'box', box: { left: 0, top: 0, right: 1, bottom: 1 } } as const;
const region = (own: object = {}) => ({ prompt: 'x', shape: ALL, ...own });
const layer = (index: number) => new Map([[index, 'x']]);
const picture = (width: number, height: number): Picture => ({ width, height, data: new Uint8Array(0) });
const small = { width: 64, height: 64 };
const noise = (length: number) => new Float32Array(length);

it('has the defaults that are documented, and the size that the model was trained at', () => {
  const side = base.parts.unet.config.sampleSize * FACTOR;
  expect(resolved({})).toMatchObject({
    width: side,
    height: side,
    steps: 25,
    guidanceScale: 7.5,
    guidanceRescale: 0,
    sampler: 'dpmpp-2m',
    eta: 0,
    seed: 0,
    count: 1,
    batchSize: 1,
    batchNoise: 'own',
    isolate: 0,
    regions: [],
    adapters: [],
    controls: [],
  });
  expect(resolved({ width: undefined, steps: 7 })).toMatchObject({ width: side, steps: 7 });
});

describe('a request', () => {
  it.each<[string, Partial<SampleRequest>, Partial<SampleRequest>, string]>([
    ['a side', { width: 8, height: 64 }, { width: 0 }, 'width: expected a multiple of 8'],
    [
      'the largest side',
      { width: 4096, height: 64 },
      { width: 4104, height: 64 },
      'width: expected 8 … 4096, got 4104 pixels',
    ],
    [
      'whole cells',
      { height: 72 },
      { height: 68 },
      'height: expected a multiple of 8 pixels, got 68; 64 and 72 work',
    ],
    [
      'pixels',
      { width: 2048, height: 2048 },
      { width: 2048, height: 2056 },
      'at most 4194304 pixels, got 2048 × 2056 = 4210688',
    ],
    ['steps', { steps: 1000 }, { steps: 1001 }, 'steps: expected a whole number of 1 … 1000, got 1001'],
    ['one step', { steps: 1 }, { steps: 0 }, 'got 0'],
    ['whole steps', { steps: 2 }, { steps: 2.5 }, 'got 2.5'],
    [
      'pictures',
      { count: 10_000 },
      { count: 10_001 },
      'count: expected a whole number of 1 … 10000, got 10001',
    ],
    ['a batch', { batchSize: 64 }, { batchSize: 65 }, 'batchSize: expected a whole number of 1 … 64, got 65'],
    [
      'a seed',
      { seed: 2 ** 52 },
      { seed: 2 ** 52 + 1 },
      'seed: expected a whole number of -4503599627370496 … ',
    ],
    ['a negative seed', { seed: -(2 ** 52) }, { seed: -(2 ** 52) - 1 }, 'seed: '],
    ['a whole seed', { seed: 3 }, { seed: 0.5 }, 'seed: '],
    ['fresh noise', { eta: 1 }, { eta: 1.01 }, 'eta: expected 0 … 1, got 1.01'],
    ['no fresh noise', { eta: 0 }, { eta: -0.01 }, 'eta: '],
    ['rescaled guidance', { guidanceRescale: 1 }, { guidanceRescale: 1.5 }, 'guidanceRescale: '],
    ['guidance', { guidanceScale: 100 }, { guidanceScale: 101 }, 'guidance: expected -100 … 100, got 101'],
    ['negative guidance', { guidanceScale: -100 }, { guidanceScale: -101 }, 'guidance: '],
    [
      'regions',
      { regions: Array(64).fill(region()) },
      { regions: Array(65).fill(region()) },
      'regions: expected at most 64, got 65',
    ],
    [
      'a region’s weight',
      { regions: [region({ weight: 1000 })] },
      { regions: [region({ weight: 1001 })] },
      'region 1: expected a weight of 0.001 … 1000, got 1001',
    ],
    [
      'a small weight',
      { regions: [region(), region({ weight: 0.001 })] },
      { regions: [region(), region({ weight: 0.0009 })] },
      'region 2: ',
    ],
    [
      'apart',
      { regions: [region()], isolate: 0.5 },
      { isolate: 0.5 },
      'isolate: there are no regions to keep apart',
    ],
    [
      'a prompt',
      { prompt: 'x'.repeat(10_000) },
      { prompt: 'x'.repeat(10_001) },
      'at most 10000 characters, got 10001',
    ],
    ['a negative prompt', { negativePrompt: '' }, { negativePrompt: 'x'.repeat(10_001) }, 'got 10001'],
    [
      'a region’s text',
      { regions: [region()] },
      { regions: [region({ negativePrompt: 'x'.repeat(10_001) })] },
      'got 10001',
    ],
    [
      'a layer’s text',
      { layerPrompts: layer(0) },
      { layerPrompts: new Map([[0, 'x'.repeat(10_001)]]) },
      'got 10001',
    ],
    [
      'the last layer',
      { layerPrompts: layer(15) },
      { layerPrompts: layer(16) },
      'style mix: expected layers 0 … 15, got 16',
    ],
    ['a layer', { layerPrompts: layer(1) }, { layerPrompts: layer(-1) }, 'got -1'],
    [
      'sizes that the model is told',
      { originalSize: { width: 65_536, height: 0 } },
      { originalSize: { width: 65_537, height: 0 } },
      'original size: expected whole numbers of 0 … 65536, got 65537 pixels',
    ],
    [
      'noise to begin from',
      { ...small, count: 2, initialNoise: [noise(256), noise(256)] },
      { ...small, count: 2, initialNoise: [noise(256)] },
      'initial noise: expected 2 × 256 numbers, got 256',
    ],
    [
      'noise of the right size',
      { ...small, initialNoise: [noise(256)] },
      { ...small, initialNoise: [noise(255)] },
      'expected 1 × 256 numbers, got 255',
    ],
    [
      'a picture to start from',
      { ...small, init: { picture: picture(64, 64), denoise: 0.5 } },
      { ...small, init: { picture: picture(64, 72), denoise: 0.5 } },
      'initial picture: expected 64 × 64 pixels, got 64 × 72',
    ],
  ])('may ask for %s, and no more', (_, fine, wrong, message) => {
    expect(() => resolved(fine)).not.toThrow();
    expect(() => resolved(wrong)).toThrow(UsageError);
    expect(() => resolved(wrong)).toThrow(message);
  });

  it('may be guided with a strength up to 100, in all of the picture or in regions', () => {
    const adapter = {} as T2iAdapter;
    const guided = (own: object) => () =>
      resolved({ ...small, adapters: [{ adapter, picture: picture(64, 64), ...own }] });
    expect(guided({ strength: 101 })).toThrow('strength of a guiding picture: expected -100 … 100, got 101');
    expect(guided({ strength: -101 })).toThrow('got -101');
    expect(guided({ regionStrengths: [{ shape: ALL, strength: 101 }] })).toThrow('got 101');
  });
});

it('the masks that a request holds are those of regions and of adapters’ strengths', () => {
  const mask = { kind: 'mask', width: 1, height: 1, data: new Uint8Array(1) };
  const request = {
    regions: [region({ shape: mask }), region()],
    adapters: [
      {
        regionStrengths: [
          { shape: mask, strength: 1 },
          { shape: ALL, strength: 1 },
        ],
      },
      {},
    ],
  } as unknown as ResolvedRequest;
  expect(maskCount(request)).toBe(2);
});
