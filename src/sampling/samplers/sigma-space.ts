/**
 * The variance-exploding form: latents = original + sigma · noise, and the network sees latents / √(sigma² + 1). Shared
 * by the samplers of Karras et al. 2022 (2206.00364) that walk sigmas.
 */
import type { NoiseLevel } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import type { SigmaSchedule } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';

/** The level of a sigma in this form. */
export function explodingLevel(sigma: number): NoiseLevel {
  return { signal: 1, noise: sigma };
}

/**
 * The members that do not depend on the update rule.
 * Start latents: the largest sigma, or √(sigma² + 1) for `leading` spacing, whose walk starts below pure noise.
 */
export function sigmaSpace(
  config: SchedulerOptions,
  { timesteps, sigmas }: SigmaSchedule,
): Pick<Sampler, 'timesteps' | 'sigmas' | 'initNoiseSigma' | 'scaleModelInput' | 'addNoise'> {
  const largest = sigmas.reduce((a, b) => Math.max(a, b), 0);
  return {
    timesteps,
    sigmas,
    initNoiseSigma: config.timestepSpacing === 'leading' ? Math.sqrt(largest * largest + 1) : largest,
    scaleModelInput: (latents, index) => combine([1 / Math.sqrt(sigmas[index]! ** 2 + 1), latents]),
    addNoise: (original, noise, index) => combine([1, original], [sigmas[index]!, noise]),
  };
}
