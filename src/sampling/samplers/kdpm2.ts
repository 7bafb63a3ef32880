/** DPM-Solver-2 in sigma space (`dpm2`): a midpoint method whose middle is the geometric mean of two sigmas. */
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import {
  discreteSigmas,
  noiseSchedule,
  roundHalfEven,
  timestepOfSigma,
  trainingSigmas,
} from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';
import { explodingLevel, sigmaSpace } from './sigma-space.ts';

/**
 *   σm = √(σ σ'),  x̃ = x + (σm − σ) noise(x, σ),  x' = x + (σ' − σ) noise(x̃, σm)
 *
 * Two calls a step, one for the last, whose middle is sigma 0.
 *
 * @throws {UsageError} for an impossible step count
 * Source: Karras et al. 2022 (2206.00364), algorithm 2 as k-diffusion varied it; numbers as diffusers
 * `scheduling_k_dpm_2_discrete.py`.
 */
export function kdpm2(config: SchedulerOptions, steps: number): Sampler {
  const table = trainingSigmas(noiseSchedule(config).alphasCumprod);
  const once = discreteSigmas({ ...config, finalSigmasType: 'zero' }, steps);
  const walk = config.useKarrasSigmas ? once.timesteps.map(roundHalfEven) : once.timesteps;
  const middles = Array.from(once.sigmas.subarray(1), (sigma, i) =>
    Math.fround(Math.sqrt(sigma * once.sigmas[i]!)),
  );
  const timesteps = walk.flatMap((timestep, i) =>
    i === 0 ? [timestep] : [Math.fround(timestepOfSigma(table, middles[i - 1]!)), timestep],
  );
  /** Sigma at which each call sees the latents; and, as the library lays them out, the levels of whole steps. */
  const seen = Float32Array.from(
    [...once.sigmas].flatMap((sigma, i) => (i === 0 ? [sigma] : [middles[i - 1]!, sigma])),
  );
  const levels = [...once.sigmas].flatMap((sigma, i) => (i === 0 ? [sigma] : [sigma, sigma]));
  return {
    ...sigmaSpace(config, { timesteps, sigmas: seen }),
    sigmas: Float32Array.from([...levels, 0]),
    addNoise: (original, noise, index) => combine([1, original], [levels[index]!, noise]),
    callsPerStep: 2,
    begin: () => {
      let half: { readonly latents: Float32Array; readonly sigma: number } | null = null;
      return (modelOutput, index, latents) => {
        const sigma = half === null ? levels[index]! : seen[index]!;
        const level = explodingLevel(sigma);
        const slope = predictNoise(config.predictionType, modelOutput, latents, level);
        const original = predictOriginal(config.predictionType, modelOutput, latents, level);
        if (half === null) {
          half = { latents, sigma };
          return { latents: combine([1, latents], [seen[index + 1]! - sigma, slope]), original };
        }
        const { latents: start, sigma: from } = half;
        half = null;
        return { latents: combine([1, start], [levels[index]! - from, slope]), original };
      };
    },
  };
}
