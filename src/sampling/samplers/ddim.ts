/** DDIM: deterministic (eta 0) to ancestral (eta 1). Song et al. 2020 (2010.02502). */
import { levelOfAlpha, predictNoise, predictOriginal } from '../denoiser.ts';
import { clampAll, combine, type Term } from '../linear-combination.ts';
import { addNoise, noiseSchedule, spacedTimesteps } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { type Sampler, unscaled } from './sampler.ts';

/**
 *   x' = √ᾱ' · original + √(1 − ᾱ' − s²) · noise + s · fresh noise
 *   s  = eta · √((1 − ᾱ') / (1 − ᾱ) · (1 − ᾱ / ᾱ'))
 *
 * @param eta 0 ≤ eta ≤ 1; default 0. Noise is drawn only if it is not 0.
 * @throws {UsageError} for an impossible step count
 * Source: 2010.02502, equations 12 and 16; numbers as diffusers `scheduling_ddim.py`.
 */
export function ddim(config: SchedulerOptions, steps: number, { eta = 0 }: { eta?: number } = {}): Sampler {
  const schedule = noiseSchedule(config);
  const { alphasCumprod } = schedule;
  const timesteps = spacedTimesteps(config, steps, true);
  const stride = Math.floor(config.numTrainTimesteps / steps);
  const finalAlpha = config.setAlphaToOne ? 1 : alphasCumprod[0]!;
  return {
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) => addNoise(schedule, original, noise, timesteps[index]!),
    begin: () => (modelOutput, index, latents, drawNoise) => {
      const timestep = timesteps[index]!;
      const alpha = alphasCumprod[timestep]!;
      // Not the next timestep of the walk: a stride below this one, whatever the spacing.
      const previousAlpha = timestep >= stride ? alphasCumprod[timestep - stride]! : finalAlpha;
      const level = levelOfAlpha(alpha);
      const predicted = predictOriginal(config.predictionType, modelOutput, latents, level);
      const noise = predictNoise(config.predictionType, modelOutput, latents, level);
      const original = config.clipSample ? clampAll(predicted, config.clipSampleRange) : predicted;
      const variance = ((1 - previousAlpha) / (1 - alpha)) * (1 - alpha / previousAlpha);
      const deviation = eta * Math.sqrt(variance);
      const terms: Term[] = [
        [Math.sqrt(previousAlpha), original],
        [Math.sqrt(1 - previousAlpha - deviation * deviation), noise],
      ];
      if (eta > 0) terms.push([deviation, drawNoise()]);
      return { latents: combine(...terms), original };
    },
  };
}
