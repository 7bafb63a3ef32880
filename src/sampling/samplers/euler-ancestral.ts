/** Euler steps down to a lower sigma, then fresh noise up to the schedule's. k-diffusion's `euler_a`. */
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import { discreteSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';
import { explodingLevel, sigmaSpace } from './sigma-space.ts';

/**
 *   up² = σ'² (σ² − σ'²) / σ²,  down² = σ'² − up²;   x' = x + (down − σ) · noise + up · fresh noise
 *
 * Differs from the library: Karras sigmas may be asked for (`withSchedule`); a config file cannot switch them on.
 *
 * @throws {UsageError} for an impossible step count
 * Source: numbers as diffusers `scheduling_euler_ancestral_discrete.py`.
 */
export function eulerAncestral(config: SchedulerOptions, steps: number): Sampler {
  const schedule = discreteSigmas(config, steps);
  const { sigmas } = schedule;
  return {
    ...sigmaSpace(config, schedule),
    callsPerStep: 1,
    begin: () => (modelOutput, index, latents, drawNoise) => {
      const from = sigmas[index]!;
      const to = sigmas[index + 1]!;
      const level = explodingLevel(from);
      const slope = predictNoise(config.predictionType, modelOutput, latents, level);
      const up = Math.sqrt((to ** 2 * (from ** 2 - to ** 2)) / from ** 2);
      const down = Math.sqrt(to ** 2 - up ** 2);
      return {
        latents: combine([1, latents], [down - from, slope], [up, drawNoise()]),
        original: predictOriginal(config.predictionType, modelOutput, latents, level),
      };
    },
  };
}
