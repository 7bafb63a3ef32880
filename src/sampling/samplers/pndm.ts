/**
 * PNDM: linear multistep on the noise prediction, with an optional Runge–Kutta start. Liu et al. 2022 (2202.09778).
 * Stable Diffusion 1.x is shipped with it (`skip_prk_steps`).
 */
import { UsageError } from '../../errors.ts';
import { levelOfAlpha, predictNoise, predictOriginal } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';
import { addNoise, noiseSchedule, spacedTimesteps } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { type Sampler, type SamplerStep, unscaled } from './sampler.ts';

/** Steps that the Runge–Kutta start replaces by four calls each (the last of them by one). */
const PRK_STEPS = 4;

/** Weighted outputs, newest first, for one to four known outputs. Source: 2202.09778, equation 12. */
function multistepOutput(outputs: readonly Float32Array[]): Float32Array {
  const [e0, e1, e2, e3] = outputs;
  if (e1 === undefined) return e0!;
  if (e2 === undefined) return combine([3 / 2, e0!], [-1 / 2, e1]);
  if (e3 === undefined) return combine([23 / 12, e0!], [-16 / 12, e1], [5 / 12, e2]);
  return combine([55 / 24, e0!], [-59 / 24, e1], [37 / 24, e2], [-9 / 24, e3]);
}

/**
 *   x' = √(ᾱ'/ᾱ) · x − (ᾱ' − ᾱ) / (ᾱ·√(1 − ᾱ') + √(ᾱ·(1 − ᾱ)·ᾱ')) · noise
 *
 * Without the Runge–Kutta start the second timestep is visited twice: the first two calls make one improved Euler step.
 *
 * @throws {UsageError} for an impossible step count, or fewer than 4 steps with the Runge–Kutta start
 * Source: 2202.09778, equations 9 (transfer), 12 (multistep) and 13 (Runge–Kutta); numbers as diffusers
 * `scheduling_pndm.py`.
 */
export function pndm(config: SchedulerOptions, steps: number): Sampler {
  const schedule = noiseSchedule(config);
  const { alphasCumprod } = schedule;
  const stride = Math.floor(config.numTrainTimesteps / steps);
  const half = Math.floor(stride / 2);
  const finalAlpha = config.setAlphaToOne ? 1 : alphasCumprod[0]!;
  const walk = spacedTimesteps(config, steps, true);

  function prkTimesteps(): number[] {
    if (steps < PRK_STEPS) {
      throw new UsageError(
        `pndm with Runge–Kutta start: expected at least ${PRK_STEPS} steps, got ${steps}; or set skip_prk_steps`,
      );
    }
    // Each of the first three intervals: its start, twice its middle, its end; the next interval starts there again.
    const ends = walk.slice(0, PRK_STEPS);
    return ends.slice(0, -1).flatMap((t, i) => [t, ends[i + 1]! + half, ends[i + 1]! + half, ends[i + 1]!]);
  }
  const prk = config.skipPrkSteps ? [] : prkTimesteps();
  const plms = config.skipPrkSteps
    ? [...walk.slice(0, 1), ...walk.slice(1, 2), ...walk.slice(1)]
    : walk.slice(PRK_STEPS - 1);
  const timesteps = [...prk, ...plms];

  /** Transfer latents from one timestep to an earlier one along a model output. */
  function transfer(latents: Float32Array, modelOutput: Float32Array, from: number, to: number) {
    const alpha = alphasCumprod[from]!;
    const next = to >= 0 ? alphasCumprod[to]! : finalAlpha;
    const level = levelOfAlpha(alpha);
    const noise = predictNoise(config.predictionType, modelOutput, latents, level);
    const denominator = alpha * Math.sqrt(1 - next) + Math.sqrt(alpha * (1 - alpha) * next);
    return {
      latents: combine([Math.sqrt(next / alpha), latents], [-(next - alpha) / denominator, noise]),
      original: predictOriginal(config.predictionType, modelOutput, latents, level),
    };
  }

  function begin(): SamplerStep {
    /** Outputs at whole steps, newest first. */
    let outputs: Float32Array[] = [];
    /** Calls made; an img2img run starts the rule afresh at a later timestep. */
    let call = 0;
    let start: Float32Array | null = null;
    let rungeKuttaSum: Float32Array | null = null;

    const rungeKutta: SamplerStep = (modelOutput, index, latents) => {
      const stage = index % 4;
      const from = prk[index - stage]!;
      if (stage === 0) {
        outputs = [modelOutput, ...outputs];
        start = latents;
        rungeKuttaSum = combine([1 / 6, modelOutput]);
        return transfer(latents, modelOutput, from, timesteps[index]! - half);
      }
      if (start === null || rungeKuttaSum === null) {
        throw new UsageError('pndm: a run with Runge–Kutta start must begin at the start of an interval');
      }
      if (stage === 3)
        return transfer(start, combine([1, rungeKuttaSum], [1 / 6, modelOutput]), from, timesteps[index]!);
      rungeKuttaSum = combine([1, rungeKuttaSum], [1 / 3, modelOutput]);
      return transfer(start, modelOutput, from, timesteps[index]! - (stage === 2 ? half : 0));
    };

    return (modelOutput, index, latents, drawNoise) => {
      if (index < prk.length) return rungeKutta(modelOutput, index, latents, drawNoise);
      const timestep = timesteps[index]!;
      const repeated = config.skipPrkSteps && call === 1;
      call++;
      if (repeated && start !== null) {
        const average = combine([1 / 2, modelOutput], [1 / 2, outputs[0]!]);
        return transfer(start, average, timestep + stride, timestep);
      }
      if (config.skipPrkSteps && call === 1) start = latents;
      outputs = [modelOutput, ...outputs].slice(0, 4);
      return transfer(latents, multistepOutput(outputs), timestep, timestep - stride);
    };
  }

  return {
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) => addNoise(schedule, original, noise, timesteps[index]!),
    begin,
  };
}
