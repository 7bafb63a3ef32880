/** What a step is made of, with a network that says which row it was asked for. */
import { describe, expect, it } from 'vitest';
import { guide } from '../../src/sampling/guidance.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { type GuidedStep, type Pass, runGuided } from '../../src/sampling/guided-run.ts';
import { ddim } from '../../src/sampling/samplers/ddim.ts';
import { resolveSchedulerConfig } from '../../src/sampling/scheduler-config.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';

const SHAPE = [2, 2, 3];
const SIZE = 12;
const STEPS = 4;
const config = resolveSchedulerConfig({}, 'test', 'DDIMScheduler');
const sampler = ddim(config, STEPS);

/** A run of n pictures; the network answers numbers of its own for every row. */
async function run(scale: number, pictures = 1, more: Partial<Parameters<typeof runGuided>[0]> = {}) {
  const rows = new GuidedRows(pictures, { scale });
  const passes: Pass[] = [];
  const outputs: Float32Array[] = [];
  const steps: GuidedStep[] = [];
  const latents = await runGuided({
    sampler,
    rows,
    shape: SHAPE,
    noise: new TorchGenerator(1).randn(pictures * SIZE),
    predict: async (pass) => {
      passes.push(pass);
      outputs.push(new TorchGenerator(10 + pass.index).randn(pass.feeds.sample.data.length));
      return outputs.at(-1)!;
    },
    onStep: (step) => void steps.push(step),
    ...more,
  });
  return { rows, passes, outputs, steps, latents };
}

describe('guidance', () => {
  it.each([1, 0.999, 0.5, 0, -3])(
    'at %d is off: the prompted prediction alone, and no other row',
    async (scale) => {
      const { rows, passes, outputs, steps } = await run(scale, 2);
      expect([rows.guided, rows.count]).toEqual([false, 2]);
      expect(passes.map(({ feeds }) => feeds.sample.shape)).toEqual(Array(STEPS).fill([2, ...SHAPE]));
      expect(steps.map(({ prediction }) => prediction)).toEqual(outputs);
    },
  );

  it.each([1.001, 4])('at %d asks for the negative rows, then the positive ones', async (scale) => {
    const { passes, outputs, steps } = await run(scale, 2);
    passes.forEach(({ feeds: { sample, timestep } }, i) => {
      expect(sample.shape).toEqual([4, ...SHAPE]);
      expect(sample.data.subarray(2 * SIZE)).toEqual(sample.data.subarray(0, 2 * SIZE));
      expect(timestep).toEqual(float32([4], Array(4).fill(sampler.timesteps[i]!)));
      const output = outputs[i]!;
      const expected = Float32Array.from(
        output.subarray(0, 2 * SIZE),
        (negative, j) => negative + scale * (output[2 * SIZE + j]! - negative),
      );
      expect(steps[i]!.prediction).toEqual(expected);
    });
  });

  it('brings each picture towards the spread of its own positive prediction', () => {
    const negative = new TorchGenerator(1).randn(24);
    const positive = new TorchGenerator(2).randn(24).map((value, i) => (i < 12 ? value : 5 * value));
    const both = Float32Array.of(...negative, ...positive);
    const deviation = (values: Float32Array) => {
      const mean = values.reduce((sum, value) => sum + value, 0) / 12;
      return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 11);
    };
    const plain = guide(both, 2, { scale: 6 });
    const whole = guide(both, 2, { scale: 6, rescale: 1 });
    const half = guide(both, 2, { scale: 6, rescale: 0.5 });
    for (const [from, to] of [
      [0, 12],
      [12, 24],
    ]) {
      expect(deviation(whole.subarray(from, to))).toBeCloseTo(deviation(positive.subarray(from, to)), 4);
    }
    expect(half).toBeAllClose(
      plain.map((value, i) => (value + whole[i]!) / 2),
      { rtol: 1e-5, atol: 1e-6 },
    );
  });
});

describe('rows', () => {
  const text = (value: number) => ({ context: float32([1, 1, 2, 2], Array(4).fill(value)) });
  const firsts = (scale: number, positives: number[]): number[] => {
    const { shape, data } = new GuidedRows(2, { scale }).conditioning(text(0), positives.map(text)).context;
    expect(shape.slice(1)).toEqual([1, 2, 2]);
    return Array.from({ length: shape[0]! }, (_, row) => data[row * 4]!);
  };

  it('read one negative text, and their own or a common positive one', () => {
    expect(firsts(2, [1, 2])).toEqual([0, 0, 1, 2]);
    expect(firsts(2, [3])).toEqual([0, 0, 3, 3]);
    expect(firsts(1, [1, 2])).toEqual([1, 2]);
  });

  it('repeat what belongs to texts for every picture', () => {
    const rows = new GuidedRows(2, { scale: 2 });
    expect(rows.spread(float32([2, 1], [7, 8]))).toEqual(float32([4, 1], [7, 7, 8, 8]));
    expect(new GuidedRows(2, { scale: 1 }).spread(float32([1, 1], [7]))).toEqual(float32([2, 1], [7, 7]));
  });

  it('hand out the positive part of finer rows', () => {
    const finer = float32([6, 2], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    expect(new GuidedRows(1, { scale: 2 }).positive(finer)).toEqual(float32([3, 2], [3, 3, 4, 4, 5, 5]));
    expect(new GuidedRows(1, { scale: 1 }).positive(finer)).toEqual(finer);
  });
});

describe('a run', () => {
  it('asks for no step that is known, and goes on to the same numbers', async () => {
    const whole = await run(3);
    const known = whole.steps.slice(0, 2).map(({ prediction }) => prediction);
    const rest = await run(3, 1, { known });
    expect(rest.passes.map(({ index }) => index)).toEqual([2, 3]);
    expect(rest.steps).toHaveLength(STEPS);
    expect(rest.latents).toEqual(whole.latents);
  });

  it('starts a picture with the noise of the step it begins at', async () => {
    const picture = new TorchGenerator(2).randn(SIZE);
    const noise = new TorchGenerator(1).randn(SIZE);
    const { passes } = await run(1, 1, { init: { latents: picture, beginIndex: 2 } });
    expect(passes.map(({ index }) => index)).toEqual([2, 3]);
    const { scaleModelInput, addNoise } = sampler;
    expect(passes[0]!.feeds.sample.data).toEqual(scaleModelInput(addNoise(picture, noise, 2), 2));
  });
});
