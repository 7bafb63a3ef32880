/**
 * DPM-Solver++ singlestep (`dpmpp-2s`): blocks of one to three calls that each restart from the block's first latents.
 * Lu et al. 2022 (2206.00927, 2211.01095).
 */
import { UsageError } from '../../errors.ts';
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import { solverSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { deterministicUpdate } from './dpm-solver.ts';
import { sdeUpdate } from './dpm-solver-sde.ts';
import { type Differences, type LambdaLevel, lambdaLevels } from './log-snr.ts';
import { type Sampler, unscaled } from './sampler.ts';

/** Order of every call: blocks of 1, 2 … solverOrder; the last call gives its order away where the config says so. */
function callOrders(config: SchedulerOptions, steps: number): number[] {
  const { solverOrder, lowerOrderFinal, finalSigmasType } = config;
  const orders = Array.from({ length: steps }, (_, i) => (i % solverOrder) + 1);
  if (finalSigmasType === 'zero' || (lowerOrderFinal && steps % solverOrder === 0)) orders[steps - 1] = 1;
  return orders;
}

/** Differences from the block's first level, newest output first. Source: 2206.00927, algorithms 4 and 5. */
function blockDifferences(
  outputs: readonly Float32Array[],
  levels: readonly LambdaLevel[],
  next: LambdaLevel,
  third: 'midpoint' | 'heun',
): Differences {
  const base = outputs[outputs.length - 1]!;
  const baseLambda = levels[levels.length - 1]!.lambda;
  const h = next.lambda - baseLambda;
  if (outputs.length === 1) return { d0: base, d1: null, d2: null };
  const r0 = (levels[0]!.lambda - baseLambda) / h;
  const newest = combine([1 / r0, outputs[0]!], [-1 / r0, base]);
  if (outputs.length === 2 || third === 'midpoint') return { d0: base, d1: newest, d2: null };
  const r1 = (levels[1]!.lambda - baseLambda) / h;
  const older = combine([1 / r1, outputs[1]!], [-1 / r1, base]);
  return {
    d0: base,
    d1: combine([r0 / (r0 - r1), older], [-r1 / (r0 - r1), newest]),
    d2: combine([2 / (r0 - r1), newest], [-2 / (r0 - r1), older]),
  };
}

/**
 * Singlestep DPM-Solver with the config's order and algorithm; always `linspace` spaced.
 * @throws {UsageError} for an impossible step count or a combination without a finite last step
 * Source: the papers above; numbers as diffusers `scheduling_dpmsolver_singlestep.py`.
 */
export function dpmSolverSinglestep(config: SchedulerOptions, steps: number): Sampler {
  const { algorithmType, predictionType } = config;
  const predictsData = algorithmType.endsWith('++');
  if (algorithmType === 'sde-dpmsolver') {
    throw new UsageError(
      'singlestep DPM-Solver: expected dpmsolver++, sde-dpmsolver++ or dpmsolver, got sde-dpmsolver',
    );
  }
  if (!predictsData && config.finalSigmasType === 'zero') {
    throw new UsageError(
      `${algorithmType}: final_sigmas_type "zero" has no last step; use "sigma_min" or the ++ form`,
    );
  }
  const { timesteps, sigmas } = solverSigmas(config, steps, { spacing: 'linspace' });
  const levels = lambdaLevels(sigmas);
  const orders = callOrders(config, timesteps.length);
  const third = config.solverType === 'heun' ? 'heun' : 'midpoint';
  return {
    timesteps,
    sigmas,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) =>
      combine([levels[index]!.signal, original], [levels[index]!.noise, noise]),
    begin: () => {
      /** Outputs of the current block, newest first, and the latents that it started from. */
      let block: Float32Array[] = [];
      let start: Float32Array = new Float32Array(0);
      return (modelOutput, index, latents, drawNoise) => {
        const level = levels[index]!;
        const original = predictOriginal(predictionType, modelOutput, latents, level);
        const output = predictsData ? original : predictNoise(predictionType, modelOutput, latents, level);
        if (orders[index] === 1 || block.length === 0) {
          block = [];
          start = latents;
        }
        block = [output, ...block];
        const used = block.map((_, back) => levels[index - back]!);
        const next = levels[index + 1]!;
        const slopes = blockDifferences(block, used, next, third);
        // Order 3 has no midpoint weights of its own: it takes the exponential ones on the newest difference.
        const solverType = block.length === 3 ? 'heun' : config.solverType;
        const base = used[used.length - 1]!;
        const updated =
          algorithmType === 'sde-dpmsolver++'
            ? sdeUpdate(start, slopes, base, next, true, solverType, drawNoise())
            : deterministicUpdate(start, slopes, base, next, predictsData, solverType);
        return { latents: updated, original };
      };
    },
  };
}
