/**
 * Every trajectory of the scheduler goldens with their analytic model: timesteps and sigmas, latents after each call,
 * noise draws; img2img truncation; forward noising and velocity; runs that the reference cannot do.
 */
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { readFloat32, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { addNoise, noiseSchedule, velocity } from '../../src/sampling/noise-schedule.ts';
import { createSampler } from '../../src/sampling/samplers/create.ts';
import { beginIndexFor, runSampler, type Sampler } from '../../src/sampling/samplers/sampler.ts';
import {
  isSchedulerClass,
  resolveSchedulerConfig,
  type SchedulerConfig,
} from '../../src/sampling/scheduler-config.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Run {
  noise_draws?: number;
  init_noise_sigma?: number;
  n_model_calls?: number;
  /** Distance of the stored float32 run from the same run in float64. */
  max_abs_diff_f32_f64?: number;
  finite?: boolean;
  raises?: string;
}
interface Variant {
  class: string;
  config_overrides: Record<string, unknown>;
  step_kwargs: { eta?: number };
  order: number;
  runs: Record<string, Run>;
}
interface Index {
  sd15_scheduler_config: Record<string, unknown>;
  variants: Record<string, Variant>;
  img2img: Record<string, { num_inference_steps: number; strength: number; t_start: number }>;
}

const index = goldenJson<Index>('goldens/schedulers/schedulers.json');
const file = await openSafetensors(goldenPath('goldens/schedulers/schedulers.safetensors'));

function tensor(name: string) {
  const found = file.tensors.get(name);
  if (found === undefined) throw new Error(`golden tensor ${name} is missing`);
  return found;
}
/** Row-major values; I64 timesteps and F32 alike. */
function values(name: string): Float64Array {
  return readFloat64(tensor(name));
}
function float32Values(name: string): Float32Array {
  return readFloat32(tensor(name));
}

const mix = values('fake_model_M');
const initialNoise = float32Values('initial_noise');
const noiseBank = float32Values('noise_bank');
const [, channels, ...plane] = tensor('initial_noise').shape as [number, number, ...number[]];
const planeSize = plane.reduce((a, b) => a * b, 1);
const pictureSize = channels * planeSize;

/** The goldens' model: eps = M x + 0.1 sin(0.01 t + channel), x [B, C, H, W]. */
function fakeModel(x: Float32Array, timestep: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += pictureSize) {
    for (let i = 0; i < channels; i++) {
      const wave = Math.fround(0.1 * Math.sin(0.01 * timestep + i));
      for (let p = 0; p < planeSize; p++) {
        let sum = 0;
        for (let j = 0; j < channels; j++) sum += mix[i * channels + j]! * x[at + j * planeSize + p]!;
        out[at + i * planeSize + p] = sum + wave;
      }
    }
  }
  return out;
}

/** Float32 noise of another set's run may be larger than that of the shipped ones, whose sums agree to 5e-6. */
const toleranceOf = (room = 0) => ({ rtol: 2e-6, atol: 5e-6 + 4 * room });

function configOf(variant: Variant, predictionType: string): SchedulerConfig {
  if (!isSchedulerClass(variant.class)) throw new Error(`golden of an unknown class ${variant.class}`);
  const json = {
    ...index.sd15_scheduler_config,
    prediction_type: predictionType,
    ...variant.config_overrides,
  };
  return resolveSchedulerConfig(json, 'schedulers.json', variant.class);
}

/** Latents before the first call and after each, one array. */
async function trajectory(sampler: Sampler, start: Float32Array, beginIndex = 0) {
  const path = [start];
  let draws = 0;
  await runSampler(sampler, start, {
    denoise: fakeModel,
    drawNoise: () => noiseBank.subarray(draws * start.length, ++draws * start.length),
    onStep: ({ latents }) => void path.push(latents),
    beginIndex,
  });
  return { latents: path.flatMap((x) => Array.from(x)), draws };
}

/** Timesteps that are whole must agree exactly; fractional ones (Karras) to float32 noise in the log of a sigma. */
function expectTimesteps(actual: readonly number[], expected: Float64Array): void {
  const whole = expected.every(Number.isInteger);
  if (whole) expect(actual).toEqual(Array.from(expected));
  else expect(actual).toBeAllClose(expected, { rtol: 0, atol: 2e-4 });
}

for (const [name, variant] of Object.entries(index.variants)) {
  describe(name, () => {
    for (const [key, run] of Object.entries(variant.runs)) {
      const [predictionType, stepText] = key.split('/') as [string, string];
      const steps = Number(stepText);
      const create = () => createSampler(configOf(variant, predictionType), steps, variant.step_kwargs);
      if (run.raises !== undefined) {
        it(`${key} is refused, as by the reference (${run.raises.split(':')[0]})`, () => {
          expect(create).toThrow(UsageError);
        });
        continue;
      }
      it(key, async () => {
        const sampler = create();
        expectTimesteps(sampler.timesteps, values(`${name}/${key}/timesteps`));
        expect(sampler.timesteps).toHaveLength(run.n_model_calls!);
        expect(sampler.callsPerStep).toBe(variant.order);
        if (file.tensors.has(`${name}/${key}/sigmas`)) {
          const expected = values(`${name}/${key}/sigmas`);
          expect(sampler.sigmas).not.toBeNull();
          expect(sampler.sigmas!).toHaveLength(expected.length);
          expected.forEach((sigma, i) => {
            expect(Math.abs(sampler.sigmas![i]! - sigma)).toBeLessThanOrEqual(1e-6 * sigma);
          });
        } else {
          expect(sampler.sigmas).toBeNull();
        }
        expect(sampler.initNoiseSigma).toBeCloseTo(run.init_noise_sigma!, 5);
        const start = initialNoise.map((x) => x * sampler.initNoiseSigma);
        const { latents, draws } = await trajectory(sampler, start);
        expect(draws).toBe(run.noise_draws);
        if (run.finite === false) return; // The reference itself ran into NaN.
        const expected = values(`${name}/${key}/latents`);
        expect(latents).toBeAllClose(expected, toleranceOf(run.max_abs_diff_f32_f64));
      });
    }
  });
}

describe('image to image', () => {
  for (const [key, { num_inference_steps: steps, strength, t_start }] of Object.entries(index.img2img)) {
    it(key, async () => {
      const variant = index.variants[key.slice(0, key.lastIndexOf('/'))]!;
      const sampler = createSampler(configOf(variant, 'epsilon'), steps, variant.step_kwargs);
      const beginIndex = beginIndexFor(sampler, steps, strength);
      expect(beginIndex).toBe(t_start * sampler.callsPerStep);
      expectTimesteps(sampler.timesteps.slice(beginIndex), values(`img2img/${key}/timesteps`));
      const start = sampler.addNoise(initialNoise, noiseBank.subarray(0, initialNoise.length), beginIndex);
      const { latents } = await trajectory(sampler, start, beginIndex);
      expect(latents).toBeAllClose(values(`img2img/${key}/latents`), toleranceOf());
    });
  }
});

describe('forward process', () => {
  const original = float32Values('add_noise/x0');
  const noise = float32Values('add_noise/noise');
  const size = original.length / tensor('add_noise/x0').shape[0]!;
  const item = (all: Float32Array, i: number) => all.subarray(i * size, (i + 1) * size);

  for (const name of Object.keys(index.variants)) {
    const variant = index.variants[name]!;
    if (file.tensors.has(`add_noise/${name}/out`)) {
      it(`${name}: noise added at a level of the walk`, () => {
        const config = configOf(variant, 'epsilon');
        const sampler = createSampler(config, 10, variant.step_kwargs);
        const timesteps = values(`add_noise/${name}/timesteps`);
        const noisy = Array.from(timesteps, (timestep, i) => {
          const x = item(original, i);
          const e = item(noise, i);
          if (sampler.sigmas === null) return addNoise(noiseSchedule(config), x, e, timestep);
          const at = sampler.timesteps.findIndex((t) => Math.abs(t - timestep) < 1e-3);
          return sampler.addNoise(x, e, at);
        });
        const actual = noisy.flatMap((x) => Array.from(x));
        expect(actual).toBeAllClose(values(`add_noise/${name}/out`), { rtol: 1e-6, atol: 1e-6 });
      });
    }
    if (file.tensors.has(`add_noise/${name}/velocity`)) {
      it(`${name}: velocity`, () => {
        const config = configOf(variant, 'epsilon');
        const sampler = createSampler(config, 10, variant.step_kwargs);
        const actual = Array.from(values(`add_noise/${name}/velocity_timesteps`), (timestep, i) => {
          // The sigma samplers of the reference look ᾱ up by the index of the step, not by its timestep.
          const at =
            sampler.sigmas === null
              ? timestep
              : sampler.timesteps.findIndex((t) => Math.abs(t - timestep) < 1e-3);
          return Array.from(velocity(noiseSchedule(config), item(original, i), item(noise, i), at));
        });
        expect(actual.flat()).toBeAllClose(values(`add_noise/${name}/velocity`), { rtol: 1e-6, atol: 1e-6 });
      });
    }
  }

  it('whole training schedule: betas, ᾱ, noise and velocity', () => {
    const config = resolveSchedulerConfig(index.sd15_scheduler_config, 'schedulers.json', 'DDPMScheduler');
    const schedule = noiseSchedule(config);
    expect(schedule.betas).toEqual(float32Values('betas'));
    expect(schedule.alphasCumprod).toEqual(float32Values('alphas_cumprod'));
    const timesteps = Array.from(values('ddpm_add_noise_all/t'));
    const each = (f: typeof addNoise) =>
      timesteps.flatMap((t) => Array.from(f(schedule, original, noise, t)));
    const tolerance = { rtol: 1e-6, atol: 1e-6 };
    expect(each(addNoise)).toBeAllClose(values('ddpm_add_noise_all/out'), tolerance);
    expect(each(velocity)).toBeAllClose(values('ddpm_add_noise_all/velocity'), tolerance);
  });

  const schedules = [...file.tensors.keys()].filter((name) => name.startsWith('betas_'));
  it.each(schedules)('%s', (name) => {
    const json = { beta_schedule: name.slice('betas_'.length), beta_start: 0.0001, beta_end: 0.02 };
    const { betas } = noiseSchedule(resolveSchedulerConfig(json, 'schedulers.json', 'DDPMScheduler'));
    expect(betas).toEqual(float32Values(name));
  });
});
