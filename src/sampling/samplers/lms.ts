/** Linear multistep in sigma space (`lms`): the polynomial through the last four slopes, integrated exactly. */
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine, type Term } from '../linear-combination.ts';
import { discreteSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Sampler } from './sampler.ts';
import { explodingLevel, sigmaSpace } from './sigma-space.ts';

const ORDER = 4;

/**
 * ∫ from σ to σ' of the Lagrange polynomial that is 1 at `nodes[j]` and 0 at the others; degree ≤ 3, for which two
 * Gauss points are exact.
 */
function lagrangeIntegral(nodes: readonly number[], j: number, from: number, to: number): number {
  const polynomial = (x: number) =>
    nodes.reduce((product, node, k) => (k === j ? product : (product * (x - node)) / (nodes[j]! - node)), 1);
  const middle = (from + to) / 2;
  const offset = (to - from) / (2 * Math.sqrt(3));
  return ((to - from) / 2) * (polynomial(middle - offset) + polynomial(middle + offset));
}

/**
 *   x' = x + Σ_j (∫ ℓ_j dσ) · slope_j,  j over the last (up to) four calls of this run
 *
 * Differs from the library in img2img runs only: there it takes the weights of four slopes before it has four.
 *
 * @throws {UsageError} for an impossible step count
 * Source: Adams–Bashforth on unequal steps; numbers as diffusers `scheduling_lms_discrete.py`.
 */
export function lms(config: SchedulerOptions, steps: number): Sampler {
  const schedule = discreteSigmas({ ...config, finalSigmasType: 'zero' }, steps);
  const { sigmas } = schedule;
  return {
    ...sigmaSpace(config, schedule),
    callsPerStep: 1,
    begin: () => {
      /** Newest first. */
      let slopes: Float32Array[] = [];
      return (modelOutput, index, latents) => {
        const level = explodingLevel(sigmas[index]!);
        slopes = [predictNoise(config.predictionType, modelOutput, latents, level), ...slopes].slice(
          0,
          ORDER,
        );
        const nodes = slopes.map((_, back) => sigmas[index - back]!);
        const terms = slopes.map(
          (slope, j): Term => [lagrangeIntegral(nodes, j, sigmas[index]!, sigmas[index + 1]!), slope],
        );
        return {
          latents: combine([1, latents], ...terms),
          original: predictOriginal(config.predictionType, modelOutput, latents, level),
        };
      };
    },
  };
}
