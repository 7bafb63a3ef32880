/**
 * DPM-Solver++ multistep, orders 1 to 3, and the noise-predicting DPM-Solver it came from. Lu et al. 2022 (2206.00927
 * and 2211.01095). The stochastic variants are in `dpm-solver-sde.ts`.
 */

import { UsageError } from '../../errors.ts';
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import { solverSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { sdeUpdate } from './dpm-solver-sde.ts';
import { type Differences, differences, type LambdaLevel, lambdaLevels } from './log-snr.ts';
import { type Sampler, unscaled } from './sampler.ts';

/**
 * One deterministic update from level `s` to level `t`.
 *
 *   data:   x' = σ'/σ · x − α'(e^−h − 1) D0 − α'/2 (e^−h − 1) D1                          midpoint
 *                                          + α'((e^−h − 1)/h + 1) D1                       heun, and order 3
 *                                          − α'((e^−h − 1 + h)/h² − ½) D2                  order 3
 *   noise:  the same with α and σ exchanged and h → −h
 *
 * Source: 2211.01095, equations 9, 13 and appendix; 2206.00927, equations 3.2–3.6.
 */
export function deterministicUpdate(
  latents: Float32Array,
  { d0, d1, d2 }: Differences,
  s: LambdaLevel,
  t: LambdaLevel,
  predictsData: boolean,
  solverType: SchedulerOptions['solverType'],
): Float32Array {
  const h = (t.lambda - s.lambda) * (predictsData ? -1 : 1);
  const scale = predictsData ? t.signal : t.noise;
  const ratio = predictsData ? t.noise / s.noise : t.signal / s.signal;
  const growth = Math.expm1(h);
  if (d1 === null) return combine([ratio, latents], [-scale * growth, d0]);
  if (d2 === null && solverType === 'midpoint') {
    return combine([ratio, latents], [-scale * growth, d0], [-0.5 * scale * growth, d1]);
  }
  const first = -scale * (growth / h - 1);
  if (d2 === null) return combine([ratio, latents], [-scale * growth, d0], [first, d1]);
  const second = -scale * ((growth - h) / (h * h) - 0.5);
  return combine([ratio, latents], [-scale * growth, d0], [first, d1], [second, d2]);
}

/**
 * DPM-Solver multistep with the config's order, solver and algorithm (`dpmpp-2m` is order 2, midpoint).
 * @throws {UsageError} for an impossible step count or a combination without a finite last step
 * Source: the papers above; numbers as diffusers `scheduling_dpmsolver_multistep.py`.
 */
export function dpmSolver(config: SchedulerOptions, steps: number): Sampler {
  const { algorithmType, predictionType, solverOrder } = config;
  const predictsData = algorithmType.endsWith('++');
  const stochastic = algorithmType.startsWith('sde');
  if (!predictsData && config.finalSigmasType === 'zero') {
    throw new UsageError(
      `${algorithmType}: final_sigmas_type "zero" has no last step; use "sigma_min" or the ++ form`,
    );
  }
  if (solverOrder > 2 && algorithmType === 'sde-dpmsolver') {
    throw new UsageError('sde-dpmsolver: expected solver_order 1 or 2, got 3');
  }
  const { timesteps, sigmas } = solverSigmas(config, steps, { truncate: true });
  const levels = lambdaLevels(sigmas);
  const count = timesteps.length;

  /** Highest order that may be used at a call, apart from what the history allows. */
  function orderAt(index: number): number {
    const short = config.lowerOrderFinal && count < 15;
    if (index === count - 1 && (config.eulerAtFinal || short || config.finalSigmasType === 'zero')) return 1;
    return index === count - 2 && short ? Math.min(2, solverOrder) : solverOrder;
  }

  return {
    timesteps,
    sigmas,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) =>
      combine([levels[index]!.signal, original], [levels[index]!.noise, noise]),
    begin: () => {
      /** Converted outputs, newest first. */
      let history: Float32Array[] = [];
      return (modelOutput, index, latents, drawNoise) => {
        const level = levels[index]!;
        const original = predictOriginal(predictionType, modelOutput, latents, level);
        const output = predictsData ? original : predictNoise(predictionType, modelOutput, latents, level);
        history = [output, ...history].slice(0, solverOrder);
        const used = history.slice(0, orderAt(index));
        const lambdas = used.map((_, back) => levels[index - back]!.lambda);
        const next = levels[index + 1]!;
        const slopes = differences(used, lambdas, next.lambda);
        const updated = stochastic
          ? sdeUpdate(latents, slopes, level, next, predictsData, config.solverType, drawNoise())
          : deterministicUpdate(latents, slopes, level, next, predictsData, config.solverType);
        return { latents: updated, original };
      };
    },
  };
}
