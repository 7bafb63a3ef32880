/** DDPM: ancestral sampling of the training process. Ho et al. 2020 (2006.11239). */
import { levelOfAlpha, predictOriginal } from '../denoiser.ts';
import { clampAll, combine } from '../linear-combination.ts';
import { addNoise, noiseSchedule, spacedTimesteps } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { type Sampler, unscaled } from './sampler.ts';

/**
 * With beta = 1 − ᾱ/ᾱ' over the stride from t to the next timestep of the walk:
 *
 *   x' = √ᾱ' · beta / (1 − ᾱ) · original + √(ᾱ/ᾱ') · (1 − ᾱ') / (1 − ᾱ) · x + √variance · fresh noise
 *
 * @throws {UsageError} for an impossible step count
 * Source: 2006.11239, equations 6 and 7; numbers as diffusers `scheduling_ddpm.py`.
 */
export function ddpm(config: SchedulerOptions, steps: number): Sampler {
  const schedule = noiseSchedule(config);
  const { alphasCumprod } = schedule;
  const timesteps = spacedTimesteps(config, steps, true);
  return {
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) => addNoise(schedule, original, noise, timesteps[index]!),
    begin: () => (modelOutput, index, latents, drawNoise) => {
      const timestep = timesteps[index]!;
      const previous = timesteps[index + 1];
      const alpha = alphasCumprod[timestep]!;
      const previousAlpha = previous === undefined ? 1 : alphasCumprod[previous]!;
      const strideAlpha = alpha / previousAlpha;
      const beta = 1 - strideAlpha;
      const predicted = predictOriginal(config.predictionType, modelOutput, latents, levelOfAlpha(alpha));
      const original = config.clipSample ? clampAll(predicted, config.clipSampleRange) : predicted;
      const mean = combine(
        [(Math.sqrt(previousAlpha) * beta) / (1 - alpha), original],
        [(Math.sqrt(strideAlpha) * (1 - previousAlpha)) / (1 - alpha), latents],
      );
      if (timestep === 0) return { latents: mean, original };
      const posterior = Math.max(((1 - previousAlpha) / (1 - alpha)) * beta, 1e-20);
      const variance = config.varianceType === 'fixed_large' ? beta : posterior;
      return { latents: combine([1, mean], [Math.sqrt(variance), drawNoise()]), original };
    },
  };
}
