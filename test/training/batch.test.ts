/** What a batch is made of, on pictures and a vocabulary that are made up: nothing is encoded, no network runs. */
import { describe, expect, it } from 'vitest';
import { SD15_SCHEDULER, SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { noiseSchedule } from '../../src/sampling/noise-schedule.ts';
import { resolveSchedulerConfig } from '../../src/sampling/scheduler-config.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { BatchMaker, type BatchSources } from '../../src/training/batch.ts';
import type { TrainingItem } from '../../src/training/data/latent-cache.ts';
import { maskedWeights, noisyBatch, plainWeights, weightedBySnr } from '../../src/training/loss-weights.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { trainingSettings } from '../../src/training/prepared-run.ts';
import type { Trainables } from '../../src/training/trainables.ts';

const [channels, latentHeight, latentWidth] = [4, 3, 2];
const cells = latentHeight * latentWidth;
const schedule = noiseSchedule(resolveSchedulerConfig(SD15_SCHEDULER, 'test', 'DDPMScheduler'));

const itemOf = (picture: number, own: Partial<TrainingItem> = {}): TrainingItem => ({
  picture,
  caption: `caption ${picture}`,
  latentHeight,
  latentWidth,
  mean: new Float32Array(channels * cells),
  deviation: new Float32Array(channels * cells).fill(1),
  mask: null,
  sizes: { width: 8 * latentWidth, height: 8 * latentHeight },
  ...own,
});

interface MadeUp extends Partial<Omit<BatchSources, 'settings' | 'trainables'>> {
  readonly settings?: Partial<TrainingInput>;
  /** Ids of the vocabulary's words. */
  readonly tokens?: readonly (readonly number[])[];
  readonly words?: readonly string[];
  readonly pictureWords?: readonly string[];
  readonly idsOf?: (text: string) => number[];
}

/** A maker of batches, and the prompts that it had encoded so far. */
function makerOf({
  settings,
  tokens = [],
  words = [],
  pictureWords = [],
  idsOf = () => [0],
  ...own
}: MadeUp) {
  const encoded: string[] = [];
  const layerPrompts = (prompt: string): string[] => {
    encoded.push(prompt);
    return [prompt];
  };
  const trainables = {
    vocabulary: {
      tokens: tokens.map((ids) => ({ ids })),
      tokenizers: new Map([['text_encoder', { encodeWindows: idsOf }]]),
      layerPrompts,
    },
    plan: { words, pictureWords },
  } as unknown as Trainables;
  const items = own.items ?? [itemOf(0), itemOf(1)];
  const given = {
    data: 'pictures',
    method: 'textual-inversion',
    token: '<a>',
    init: 'x',
    batch: items.length,
  };
  const maker = new BatchMaker({
    classItems: [],
    window: 1,
    schedule,
    unet: SD15_UNET,
    prediction: 'epsilon',
    ...own,
    items,
    settings: trainingSettings({ noiseOffset: 0, ...given, ...settings } as TrainingInput).settings,
    trainables,
  });
  return { maker, encoded };
}

describe('the noise of a batch', () => {
  const noiseOf = (noiseOffset: number): Float32Array =>
    // What is to be predicted is the noise itself.
    makerOf({ settings: { noiseOffset } }).maker.make(0, new TorchGenerator(8)).target;

  it('is shifted by one number per picture and channel', () => {
    const noiseOffset = 0.3;
    const plain = noiseOf(0);
    const shifts = noiseOf(noiseOffset).map((value, i) => value - plain[i]!);
    // The same draws again: of the latents, of the noise, of the shifts.
    const random = new TorchGenerator(8);
    for (let i = 0; i < 2; i++) random.randn(channels * cells);
    expect(plain).toBeAllClose(random.randn(plain.length), { rtol: 0, atol: 1e-6 });
    const expected = random.randn(2 * channels);
    expect(shifts).toBeAllClose(
      shifts.map((_, i) => noiseOffset * expected[Math.floor(i / cells)]!),
      { rtol: 1e-4, atol: 1e-6 },
    );
  });
});

describe('the latents of a batch', () => {
  const spread = {
    mean: new Float32Array(channels * cells).fill(2),
    deviation: new Float32Array(channels * cells).fill(0.5),
  };
  const latentsOf = (latents: 'sample' | 'mean') => {
    const { maker } = makerOf({ items: [itemOf(0, spread)], settings: { latents } });
    const { noisy, target, timesteps } = maker.make(0, new TorchGenerator(4));
    const alpha = schedule.alphasCumprod[timesteps[0]!]!;
    return noisy.map((x, i) => (x - Math.sqrt(1 - alpha) * target[i]!) / Math.sqrt(alpha));
  };

  it('are the mean, or drawn around it', () => {
    expect(latentsOf('mean')).toBeAllClose(spread.mean, { rtol: 1e-4 });
    const drawn = new TorchGenerator(4).randn(channels * cells).map((x) => 2 + 0.5 * x);
    expect(latentsOf('sample')).toBeAllClose(drawn, { rtol: 1e-4 });
  });
});

describe('the weights of a batch', () => {
  const half = Float32Array.of(1, 1, 1, 0, 0, 0);
  const one = Float32Array.of(0, 0, 0, 0, 0, 1);

  it('look where masks are, everywhere for a picture without one, and at class pictures by their share', () => {
    const items = [itemOf(0, { mask: half }), itemOf(1), itemOf(2, { mask: one })];
    const { maker } = makerOf({
      items,
      classItems: items.map(({ picture }) => itemOf(picture, { caption: 'class' })),
      settings: {
        method: 'custom-diffusion',
        priorWeight: 0.25,
        classPrompt: 'x',
        batch: 3,
      },
    });
    const { lossWeights, attention, prompts, noisy } = maker.make(0, new TorchGenerator(1));
    expect(noisy).toHaveLength(6 * channels * cells);
    expect(prompts).toHaveLength(6);
    const own = lossWeights.subarray(0, 3 * cells);
    expect(own.reduce((a, b) => a + b)).toBeCloseTo(1, 6);
    const rows = [0, 1, 2].map((b) => [...own.subarray(b * cells, (b + 1) * cells)]);
    const expected = [half, new Float32Array(cells).fill(1), one].map((mask) => {
      const total = mask.reduce((a, b) => a + b);
      return [...mask.map((value) => value / (3 * total))];
    });
    // In an order that is drawn.
    const sorted = (all: number[][]): string[] =>
      all.map((row) => row.map((x) => x.toFixed(5)).join()).sort();
    expect(sorted(rows)).toEqual(sorted(expected));
    expect(lossWeights.subarray(3 * cells)).toBeAllClose(
      new Float32Array(3 * cells).fill(0.25 / (3 * channels * cells)),
      { rtol: 1e-6 },
    );
    expect(attention!.masks.subarray(3 * cells)).toEqual(new Float32Array(3 * cells).fill(1));
    expect(attention!.masks.subarray(0, 3 * cells)).toEqual(own.map((weight) => (weight > 0 ? 1 : 0)));
  });

  it('without masks are those of a plain mean', () => {
    const { lossWeights } = makerOf({}).maker.make(0, new TorchGenerator(1));
    expect(lossWeights).toEqual(plainWeights(2, channels, cells));
    expect(plainWeights(2, channels, cells).reduce((a, b) => a + b) * channels).toBeCloseTo(1, 6);
    expect(plainWeights(2, channels, cells, 0.5)[0]).toBeCloseTo(0.5 / (2 * channels * cells), 8);
  });

  it('of masks mean each row alike, and refuse an empty one', () => {
    const weights = maskedWeights(Float32Array.of(...half, ...one), 2, 0.5);
    expect(weights).toBeAllClose(Float32Array.of(...half.map((x) => x / 12), ...one.map((x) => x / 4)), {
      rtol: 1e-6,
    });
    const empty = Float32Array.of(...half, ...new Float32Array(cells));
    expect(() => maskedWeights(empty, 2)).toThrow(/mask of row 1/);
  });

  it('count less where little noise is left, if they are told to', () => {
    const { maker } = makerOf({ settings: { minSnrGamma: 5 } });
    const { lossWeights, timesteps } = maker.make(0, new TorchGenerator(2));
    expect(lossWeights).toEqual(
      weightedBySnr(plainWeights(2, channels, cells), timesteps, schedule, 'epsilon', 5),
    );
  });
});

it('what is predicted is the noise, or √ᾱ · noise − √(1 − ᾱ) · latents, of each row at its own timestep', () => {
  const timesteps = [10, 900];
  const size = 3;
  const [latents, noise] = [1, 2].map((seed) => new TorchGenerator(seed).randn(2 * size)) as [
    Float32Array,
    Float32Array,
  ];
  const of = (prediction: 'epsilon' | 'v_prediction') =>
    noisyBatch(schedule, latents, noise, timesteps, prediction);
  const mixed = (signal: (alpha: number) => number, sigma: (alpha: number) => number): Float32Array =>
    latents.map((z, i) => {
      const alpha = schedule.alphasCumprod[timesteps[Math.floor(i / size)]!]!;
      return signal(alpha) * z + sigma(alpha) * noise[i]!;
    });
  const noisy = mixed(Math.sqrt, (alpha) => Math.sqrt(1 - alpha));
  const velocity = mixed((alpha) => -Math.sqrt(1 - alpha), Math.sqrt);
  expect(of('epsilon').target).toEqual(noise);
  expect(of('v_prediction').target).toBeAllClose(velocity, { rtol: 1e-5 });
  for (const prediction of ['epsilon', 'v_prediction'] as const)
    expect(of(prediction).noisy).toBeAllClose(noisy, { rtol: 1e-5 });
});

describe('the prompts of a batch', () => {
  it('get one vector of a word after the other, evenly over the run, where they are told to', () => {
    const words = ['<a>', '<a.1>', '<a.2>', '<b>', '<b.1>', '<b.2>'];
    const settings = { vectors: 3, progressive: true, steps: 9, accumulate: 2, batch: 1 };
    const items = [itemOf(0, { caption: '<TOK>' })];
    const promptAt = (number: number): string => {
      const { maker, encoded } = makerOf({ items, settings, words });
      maker.make(number, new TorchGenerator(0));
      return encoded[0]!;
    };
    const [one, two, three] = ['<a> <b>', '<a> <a.1> <b> <b.1>', words.join(' ')];
    // Two batches a step, three steps a vector.
    expect([0, 5, 6, 11, 12, 17].map(promptAt)).toEqual([one, one, two, two, three, three]);
  });

  it('have a word of their own picture, unless the caption was dropped', () => {
    const items = [itemOf(0, { caption: 'a' }), itemOf(1, { caption: 'b' })];
    const promptsOf = (captionDropout: number): string[] => {
      const { maker, encoded } = makerOf({
        items,
        pictureWords: ['<p0>', '<p1>'],
        settings: { captionDropout },
      });
      maker.make(0, new TorchGenerator(0));
      return encoded.sort();
    };
    expect(promptsOf(0)).toEqual(['a with <p0>', 'b with <p1>']);
    expect(promptsOf(1)).toEqual(['']);
  });

  it('are equally long: empty windows fill the shorter ones', () => {
    const idsOf = (text: string): number[] =>
      text === 'long' ? [7, 7, 8, 8, 9, 9] : text === '' ? [0, 1] : [5, 5];
    const items = [itemOf(0, { caption: 'long' }), itemOf(1, { caption: 'short' })];
    const { prompts } = makerOf({ items, idsOf, window: 2 }).maker.make(0, new TorchGenerator(0));
    expect(prompts.map(([ids]) => ids![0]!).toSorted((a, b) => a[0]! - b[0]!)).toEqual([
      [5, 5, 0, 1, 0, 1],
      [7, 7, 8, 8, 9, 9],
    ]);
  });
});

describe('the words that attention is held by', () => {
  it('are the pair that the prompt has, of several concepts trained together', () => {
    const ids: Record<string, number[]> = { first: [9, 1, 5, 2], second: [3, 4, 9], half: [9, 2, 3] };
    const placesOf = (caption: string) =>
      makerOf({
        items: [itemOf(0, { caption })],
        tokens: [[1], [2, 5], [3], [4]],
        idsOf: (text) => ids[text] ?? [0],
      }).maker.make(0, new TorchGenerator(8)).attention!.words;
    expect(placesOf('first')).toEqual([[1, 2]]);
    expect(placesOf('second')).toEqual([[0, 1]]);
    expect(placesOf('half')).toEqual([null]);
  });
});
