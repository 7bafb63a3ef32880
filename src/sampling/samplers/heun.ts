/** Heun's method: an Euler step, then again with the mean of both slopes. Karras et al. 2022 (2206.00364). */
import { predictOriginal } from '../denoiser.ts';
import { clampAll, combine } from '../linear-combination.ts';
import { discreteSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';
import { explodingLevel, sigmaSpace } from './sigma-space.ts';

/** A step whose first half is done. */
interface HalfStep {
  readonly latents: Float32Array;
  readonly slope: Float32Array;
  readonly dSigma: number;
}

/**
 * Two calls a step, one for the last: `timesteps` and `sigmas` hold every level but the first and last twice.
 *
 *   d = (x − original(x, σ)) / σ,  x̃ = x + (σ' − σ) d,  d' = (x̃ − original(x̃, σ')) / σ',  x' = x + (σ' − σ)(d + d') / 2
 *
 * @throws {UsageError} for an impossible step count
 * Source: 2206.00364, algorithm 1; numbers as diffusers `scheduling_heun_discrete.py`.
 */
export function heun(config: SchedulerOptions, steps: number): Sampler {
  // The library's Heun ends at sigma 0 whatever the config says.
  const once = discreteSigmas({ ...config, finalSigmasType: 'zero' }, steps);
  const twice = (value: number, i: number, all: ArrayLike<number>) =>
    i === 0 || i === all.length - 1 ? [value] : [value, value];
  const sigmas = Float32Array.from(Array.from(once.sigmas).flatMap(twice));
  const timesteps = once.timesteps.flatMap((timestep, i) => (i === 0 ? [timestep] : [timestep, timestep]));
  return {
    ...sigmaSpace(config, { timesteps, sigmas }),
    callsPerStep: 2,
    begin: () => {
      let half: HalfStep | null = null;
      return (modelOutput, index, latents) => {
        const sigma = sigmas[index]!;
        const predicted = predictOriginal(config.predictionType, modelOutput, latents, explodingLevel(sigma));
        const original = config.clipSample ? clampAll(predicted, config.clipSampleRange) : predicted;
        const slope = combine([1 / sigma, latents], [-1 / sigma, original]);
        if (half === null) {
          const dSigma = sigmas[index + 1]! - sigma;
          half = { latents, slope, dSigma };
          return { latents: combine([1, latents], [dSigma, slope]), original };
        }
        const { latents: start, slope: first, dSigma } = half;
        half = null;
        return { latents: combine([1, start], [dSigma / 2, first], [dSigma / 2, slope]), original };
      };
    },
  };
}
