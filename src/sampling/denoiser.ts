/**
 * The three things that networks predict, brought to the two that samplers use. At a noise level (signal a, noise b)
 * the latents are x = a · original + b · noise. In the variance-preserving form (DDIM, DPM-Solver) a² + b² = 1; in the
 * variance-exploding form (Euler, Heun) a = 1 and b = sigma.
 */

import type { PredictionType } from '../models/model-schedule.ts';
import { combine } from './linear-combination.ts';

/** latents = signal · original + noise · noise. */
export interface NoiseLevel {
  readonly signal: number;
  readonly noise: number;
}

/** The level of a sigma in the variance-preserving form: signal 1/√(σ²+1), noise σ/√(σ²+1). */
export function levelOfSigma(sigma: number): NoiseLevel {
  const signal = 1 / Math.sqrt(sigma * sigma + 1);
  return { signal, noise: sigma * signal };
}

/** The level of a cumulated alpha: signal √ᾱ, noise √(1 − ᾱ). */
export function levelOfAlpha(alphaCumprod: number): NoiseLevel {
  return { signal: Math.sqrt(alphaCumprod), noise: Math.sqrt(1 - alphaCumprod) };
}

/**
 * The noise-free latents that a network's output implies.
 *
 *   epsilon       (x − b·ε) / a
 *   v_prediction  a·x/c² − b·v/c,   c² = a² + b²; v lives in the variance-preserving form
 *   sample        the output itself
 *
 * Source: Ho et al. 2020 (2006.11239), equation 15; Salimans & Ho 2022 (2202.00512), appendix D.
 */
export function predictOriginal(
  type: PredictionType,
  modelOutput: Float32Array,
  latents: Float32Array,
  { signal, noise }: NoiseLevel,
): Float32Array {
  switch (type) {
    case 'epsilon':
      return combine([1 / signal, latents], [-noise / signal, modelOutput]);
    case 'v_prediction': {
      const square = signal * signal + noise * noise;
      return combine([signal / square, latents], [-noise / Math.sqrt(square), modelOutput]);
    }
    case 'sample':
      return modelOutput;
  }
}

/**
 * The noise that a network's output implies.
 *
 *   epsilon       the output itself
 *   v_prediction  a·v/c + b·x/c²
 *   sample        (x − a·original) / b
 *
 * Source: as `predictOriginal`.
 */
export function predictNoise(
  type: PredictionType,
  modelOutput: Float32Array,
  latents: Float32Array,
  { signal, noise }: NoiseLevel,
): Float32Array {
  switch (type) {
    case 'epsilon':
      return modelOutput;
    case 'v_prediction': {
      const square = signal * signal + noise * noise;
      return combine([signal / Math.sqrt(square), modelOutput], [noise / square, latents]);
    }
    case 'sample':
      return combine([1 / noise, latents], [-signal / noise, modelOutput]);
  }
}
