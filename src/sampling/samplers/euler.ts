/** Euler's method on the probability-flow ODE. Karras et al. 2022 (2206.00364), algorithm 2 without churn. */
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import { discreteSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';
import { explodingLevel, sigmaSpace } from './sigma-space.ts';

/**
 *   dx/dsigma = (x − original) / sigma = noise;   x' = x + (sigma' − sigma) · noise
 *
 * @throws {UsageError} for an impossible step count
 * Source: 2206.00364, algorithm 2; numbers as diffusers `scheduling_euler_discrete.py`.
 */
export function euler(config: SchedulerOptions, steps: number): Sampler {
  const schedule = discreteSigmas(config, steps);
  const { sigmas } = schedule;
  return {
    ...sigmaSpace(config, schedule),
    callsPerStep: 1,
    begin: () => (modelOutput, index, latents) => {
      const level = explodingLevel(sigmas[index]!);
      const slope = predictNoise(config.predictionType, modelOutput, latents, level);
      return {
        latents: combine([1, latents], [sigmas[index + 1]! - sigmas[index]!, slope]),
        original: predictOriginal(config.predictionType, modelOutput, latents, level),
      };
    },
  };
}
