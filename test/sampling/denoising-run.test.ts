/** Which steps keep regions apart, and what a guided step is made of; the network is one that writes down what it is asked. */
import { beforeAll, describe, expect, it } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { DenoisingRun, type RunContext } from '../../src/sampling/denoising-run.ts';
import type { LatentCodec } from '../../src/sampling/latent-codec.ts';
import type { Region } from '../../src/sampling/region.ts';
import { REQUEST_DEFAULTS, type ResolvedRequest } from '../../src/sampling/request.ts';
import { createSampler } from '../../src/sampling/samplers/create.ts';
import { resolveSchedulerConfig } from '../../src/sampling/scheduler-config.ts';
import type { UnetDenoiser, UnetSetup } from '../../src/sampling/unet-denoiser.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
});

const FACTOR = 8;
const STEPS = 5;
const SIDE = 64;
const half = (left: number, right: number): Region => ({
  prompt: 'a cat',
  shape: { kind: 'box', box: { top: 0, left, bottom: 1, right } },
});

interface Asked {
  readonly isolated: boolean;
  readonly rows: number;
}

/** Denoise one picture; the network answers `negative` and `positive` everywhere. */
async function denoise(request: Partial<ResolvedRequest>, negative = 0, positive = 0) {
  const asked: Asked[] = [];
  let setup: UnetSetup | null = null;
  const unet = {
    keysValues: async () => ({}),
    load: async (given: UnetSetup) => {
      setup = given;
    },
    run: async ({ sample }: { sample: Tensor<Float32Array> }) => {
      const rows = sample.shape[0]!;
      asked.push({ isolated: setup!.layout.levels[0]!.apart !== null, rows });
      const one = sample.data.length / rows;
      const answer = sample.data.map((_, i) => (rows === 2 && i < one ? negative : positive));
      return { noise_pred: { ...sample, data: answer } };
    },
  };
  const codec = {
    encode: async () => float32([1, 4, SIDE / FACTOR, SIDE / FACTOR]),
  };
  const sampler = createSampler(resolveSchedulerConfig({}, 'test', 'DDIMScheduler'), STEPS, { eta: 0 });
  const text = { context: float32([1, 16, 4, 8]) };
  const resolved = {
    ...REQUEST_DEFAULTS,
    prompt: 'a cat',
    width: SIDE,
    height: SIDE,
    steps: STEPS,
    regions: [half(0, 0.5), half(0.5, 1)],
    guidanceScale: 4,
    ...request,
  } as ResolvedRequest;
  const sources = [text, ...resolved.regions].map(() => (resolved.guidanceScale > 1 ? [text, text] : [text]));
  const context: RunContext = {
    base,
    request: resolved,
    unet: unet as unknown as UnetDenoiser,
    codec: codec as unknown as LatentCodec,
    sampler,
    models: [{ sources, strengths: [] }],
    factor: FACTOR,
    execution: executionContext(),
  };
  const originals: Float32Array[] = [];
  const run = new DenoisingRun(context);
  await run.denoise([0], run.drawnPlaces(), ({ predicted }) => void originals.push(predicted.data));
  return { asked, originals, sampler };
}

const picture = { width: SIDE, height: SIDE, data: new Uint8Array(SIDE * SIDE * 3) };

describe('regions keep to themselves', () => {
  it.each([
    ['never', 0, 0, 5],
    ['in two of five steps', 0.4, 2, 5],
    ['in half of them, rounded', 0.5, 3, 5],
    ['always', 1, 5, 5],
  ])('%s, from the first on', async (_, isolate, isolated, calls) => {
    const { asked } = await denoise({ isolate });
    expect(asked.map((call) => call.isolated)).toEqual(Array.from({ length: calls }, (_, i) => i < isolated));
  });

  it('in their share of the steps that are left of a picture', async () => {
    const { asked } = await denoise({ isolate: 0.4, init: { picture, denoise: 0.6 } });
    expect(asked.map((call) => call.isolated)).toEqual([true, false, false]);
  });
});

describe('a guided step', () => {
  it('asks for both predictions and goes beyond the positive one', async () => {
    const { asked, originals } = await denoise({ guidanceScale: 4 }, 1, 1.5);
    expect(asked.every(({ rows }) => rows === 2)).toBe(true);
    // Negative + 4 · (positive − negative) = 3: the same as a network that answers 3 without guidance.
    const plain = await denoise({ guidanceScale: 1 }, 0, 3);
    expect(plain.asked.every(({ rows }) => rows === 1)).toBe(true);
    originals.forEach((original, i) => {
      expect(original).toBeAllClose(plain.originals[i]!, { rtol: 1e-6, atol: 1e-6 });
    });
  });
});
