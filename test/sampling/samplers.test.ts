import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError, UsageError } from '../../src/errors.ts';
import type { PredictionType } from '../../src/models/model-schedule.ts';
import { levelOfAlpha, predictNoise, predictOriginal } from '../../src/sampling/denoiser.ts';
import { combine } from '../../src/sampling/linear-combination.ts';
import { addNoise, noiseSchedule, spacedTimesteps, velocity } from '../../src/sampling/noise-schedule.ts';
import { createSampler, namedSamplerConfig, SAMPLER_NAMES } from '../../src/sampling/samplers/create.ts';
import { beginIndexFor, runSampler } from '../../src/sampling/samplers/sampler.ts';
import { resolveSchedulerConfig } from '../../src/sampling/scheduler-config.ts';

const SD = {
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  steps_offset: 1,
  clip_sample: false,
};
const PREDICTIONS: readonly PredictionType[] = ['epsilon', 'v_prediction', 'sample'];
const target = Float32Array.from({ length: 8 }, (_, i) => Math.sin(3 * i) * 2);
const noise = Float32Array.from({ length: 8 }, (_, i) => Math.cos(5 * i));

/** What a perfect network answers: the original is always `target`, whatever the latents. */
function perfect(type: PredictionType, latents: Float32Array, signal: number, level: number): Float32Array {
  const epsilon = combine([1 / level, latents], [-signal / level, target]);
  if (type === 'epsilon') return epsilon;
  return type === 'sample' ? target : combine([signal, epsilon], [-level, target]);
}

describe.each(SAMPLER_NAMES)('%s', (name) => {
  // PNDM extrapolates raw outputs: constant noise or originals stay exact, a velocity that turns does not.
  for (const predictionType of name === 'pndm' ? (['epsilon', 'sample'] as const) : PREDICTIONS) {
    it(`ends at the picture that a network with ${predictionType} always answers`, async () => {
      const config = namedSamplerConfig(
        name,
        { ...SD, set_alpha_to_one: true, prediction_type: predictionType },
        'test',
      );
      const sampler = createSampler(config, 10);
      const { alphasCumprod } = noiseSchedule(config);
      const originals: Float32Array[] = [];
      const end = await runSampler(
        sampler,
        noise.map((x) => x * sampler.initNoiseSigma),
        {
          denoise: (latents, timestep, index) => {
            const sigma = sampler.sigmas?.[index];
            const inBetween = name === 'dpm2' && index % 2 === 1;
            const alpha = sigma === undefined ? alphasCumprod[timestep]! : 1 / (sigma * sigma + 1);
            if (!inBetween) return perfect(predictionType, latents, Math.sqrt(alpha), Math.sqrt(1 - alpha));
            const middle = sigma! * sampler.sigmas![index - 1]!;
            return perfect(
              predictionType,
              latents,
              1 / Math.sqrt(middle + 1),
              Math.sqrt(middle / (middle + 1)),
            );
          },
          drawNoise: () => noise,
          onStep: ({ original }) => void originals.push(original),
        },
      );
      expect(originals).toHaveLength(sampler.timesteps.length);
      for (const original of originals) expect(original).toBeAllClose(target, { rtol: 1e-4 });
      expect(end).toBeAllClose(target, { rtol: 1e-4 });
    });
  }

  it('starts an img2img run where `addNoise` put it, and ends at the picture', async () => {
    const config = namedSamplerConfig(name, { ...SD, set_alpha_to_one: true, skip_prk_steps: true }, 'test');
    const sampler = createSampler(config, 10);
    const beginIndex = beginIndexFor(sampler, 10, 0.4);
    const visited: number[] = [];
    await runSampler(sampler, sampler.addNoise(target, noise, beginIndex), {
      denoise: (_, timestep) => {
        visited.push(timestep);
        return noise;
      },
      drawNoise: () => new Float32Array(noise.length),
      beginIndex,
      onStep: ({ original, index }) => {
        // The network's noise is the very noise that was added: the first prediction is the clean picture.
        if (index === beginIndex) expect(original).toBeAllClose(target, { rtol: 1e-4 });
      },
    });
    expect(visited).toEqual(sampler.timesteps.slice(beginIndex));
    expect(visited.length).toBeLessThan(sampler.timesteps.length);
  });

  it('walks down, whatever the step count and spacing', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 998 }),
        fc.constantFrom('leading' as const, 'linspace' as const, 'trailing' as const),
        (steps, timestepSpacing) => {
          const config = namedSamplerConfig(name, { ...SD, skip_prk_steps: true }, 'test', {
            timestepSpacing,
          });
          const { timesteps, sigmas } = createSampler(config, steps);
          expect(timesteps.every((t, i) => t >= 0 && t < 1000 && (i === 0 || t <= timesteps[i - 1]!))).toBe(
            true,
          );
          if (sigmas !== null) expect(sigmas.every((s, i) => i === 0 || s <= sigmas[i - 1]!)).toBe(true);
        },
      ),
      { numRuns: 20, seed: 1 },
    );
  });

  it.each([0, -1, 2.5, 1001, Number.NaN])('refuses %s steps', (steps) => {
    expect(() => createSampler(namedSamplerConfig(name, SD, 'test'), steps)).toThrow(UsageError);
  });
});

describe('the loop', () => {
  const sampler = createSampler(namedSamplerConfig('euler-a', SD, 'test'), 5);
  const denoise = (latents: Float32Array) => latents;

  it('refuses a stochastic sampler without noise', async () => {
    await expect(runSampler(sampler, noise, { denoise })).rejects.toThrow(UsageError);
  });

  it('stops at the first value that is not finite, and says where', async () => {
    const broken = (latents: Float32Array, _: number, index: number) =>
      index === 2 ? latents.map(() => Number.NaN) : latents;
    const run = runSampler(sampler, noise, { denoise: broken, drawNoise: () => noise });
    await expect(run).rejects.toThrow(NumericalError);
    await expect(run).rejects.toThrow(/call 3 of 5/);
  });

  it('stops between calls when aborted', async () => {
    const abort = new AbortController();
    let calls = 0;
    const run = runSampler(sampler, noise, {
      denoise: (latents) => {
        if (++calls === 2) abort.abort(new Error('enough'));
        return latents;
      },
      drawNoise: () => noise,
      signal: abort.signal,
    });
    await expect(run).rejects.toThrow('enough');
    expect(calls).toBe(2);
  });

  it('refuses a model output of another length', async () => {
    const run = runSampler(sampler, noise, { denoise: () => new Float32Array(3), drawNoise: () => noise });
    await expect(run).rejects.toThrow(ShapeError);
  });

  it.each([0, -0.1, 1.1, 0.1, Number.NaN])('refuses img2img strength %s of 5 steps', (strength) => {
    expect(() => beginIndexFor(sampler, 5, strength)).toThrow(UsageError);
  });
});

describe('predictions', () => {
  it('agree: noise and velocity of the same latents give the same original and noise', () => {
    const config = resolveSchedulerConfig(SD, 'test', 'DDIMScheduler');
    const schedule = noiseSchedule(config);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 999 }), (timestep) => {
        const latents = addNoise(schedule, target, noise, timestep);
        const level = levelOfAlpha(schedule.alphasCumprod[timestep]!);
        const outputs = {
          epsilon: noise,
          v_prediction: velocity(schedule, target, noise, timestep),
          sample: target,
        };
        for (const type of PREDICTIONS) {
          // √ᾱ is 0.07 at the last timestep, 1 − ᾱ 8.5e-4 at the first: float32 latents leave this much.
          expect(predictOriginal(type, outputs[type], latents, level)).toBeAllClose(target, { rtol: 1e-5 });
          expect(predictNoise(type, outputs[type], latents, level)).toBeAllClose(noise, { rtol: 1e-5 });
        }
      }),
      { numRuns: 50, seed: 1 },
    );
  });
});

describe('departures from the library', () => {
  it('trailing spacing never visits timestep −1', () => {
    const config = resolveSchedulerConfig({ ...SD, timestep_spacing: 'trailing' }, 'test', 'DDIMScheduler');
    for (const steps of [61, 103, 998]) {
      const timesteps = spacedTimesteps(config, steps, true);
      expect(timesteps).toHaveLength(steps);
      expect(timesteps.at(-1)).toBeGreaterThanOrEqual(0);
    }
  });

  it('leading spacing that would leave the schedule is refused', () => {
    const config = resolveSchedulerConfig({ ...SD, timestep_spacing: 'leading' }, 'test', 'DDIMScheduler');
    expect(() => spacedTimesteps(config, 1000, true)).toThrow(/timesteps below 1000, got 1000/);
  });

  it('UniPC with bh1 reaches sigma 0 with finite numbers', async () => {
    const config = resolveSchedulerConfig({ ...SD, solver_type: 'bh1' }, 'test', 'UniPCMultistepScheduler');
    const end = await runSampler(createSampler(config, 6), noise, { denoise: (latents) => latents });
    expect(end.every(Number.isFinite)).toBe(true);
  });
});
