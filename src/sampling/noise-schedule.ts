/**
 * The forward process as numbers: betas, ᾱ, sigmas, and which timesteps a sampler visits. Tables are rounded to
 * float32 where the library's are, because timesteps and sigmas derived from them must agree exactly.
 *
 *   latents_t = √ᾱ_t · original + √(1 − ᾱ_t) · noise,   sigma_t = √((1 − ᾱ_t) / ᾱ_t)
 */
import { UsageError } from '../errors.ts';
import { combine } from './linear-combination.ts';
import type { BetaSchedule, SchedulerOptions, TimestepSpacing } from './scheduler-options.ts';

const f32 = Math.fround;

/** `count` numbers from `start` to `end`, both reached, each rounded as torch's float32 linspace rounds. */
function linspaceFloat32(start: number, end: number, count: number): Float32Array {
  const first = f32(start);
  const last = f32(end);
  const step = f32(f32(last - first) / f32(count - 1));
  // Walks from both ends to the middle: torch fuses the product and the sum, so only the sum is rounded.
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2 ? first + step * i : last - step * (count - 1 - i),
  );
}

/** ᾱ of the cosine schedule, t in [0, 1]. Source: Nichol & Dhariwal 2021 (2102.09672), equation 17. */
function cosineAlphaBar(t: number): number {
  return Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
}

function plainBetas(schedule: BetaSchedule, betaStart: number, betaEnd: number, count: number): Float32Array {
  switch (schedule) {
    case 'linear':
      return linspaceFloat32(betaStart, betaEnd, count);
    case 'scaled_linear':
      return linspaceFloat32(Math.sqrt(betaStart), Math.sqrt(betaEnd), count).map((root) => root * root);
    case 'squaredcos_cap_v2':
      return Float32Array.from({ length: count }, (_, i) =>
        Math.min(1 - cosineAlphaBar((i + 1) / count) / cosineAlphaBar(i / count), 0.999),
      );
  }
}

/** Running product of 1 − beta: accumulated in float64, stored in float32, as torch's cumprod on CPU. */
function cumulativeAlphas(betas: Float32Array): Float32Array {
  let product = 1;
  return betas.map((beta) => {
    product *= f32(1 - beta);
    return product;
  });
}

/** Betas whose last ᾱ is zero, the first unchanged. Source: 2305.08891, algorithm 1; every operation in float32. */
function rescaleZeroTerminalSnr(betas: Float32Array): Float32Array {
  const roots = cumulativeAlphas(betas).map(Math.sqrt);
  const first = roots[0]!;
  const last = roots[roots.length - 1]!;
  const scale = f32(first / f32(first - last));
  const alphasCumprod = roots.map((root) => f32(f32(root - last) * scale) ** 2);
  return alphasCumprod.map((value, i) => 1 - (i === 0 ? value : f32(value / alphasCumprod[i - 1]!)));
}

export interface NoiseSchedule {
  /** [numTrainTimesteps], float32 values. */
  readonly betas: Float32Array;
  /** ᾱ, [numTrainTimesteps], float32 values, decreasing. */
  readonly alphasCumprod: Float32Array;
}

/**
 * Betas and ᾱ of a configuration.
 * Source: diffusers `scheduling_ddim.py` and the `betas_for_alpha_bar`, `rescale_zero_terminal_snr` beside it.
 */
export function noiseSchedule(config: SchedulerOptions): NoiseSchedule {
  const { trainedBetas, betaSchedule, betaStart, betaEnd, numTrainTimesteps } = config;
  const plain =
    trainedBetas === null
      ? plainBetas(betaSchedule, betaStart, betaEnd, numTrainTimesteps)
      : Float32Array.from(trainedBetas);
  const betas = config.rescaleBetasZeroSnr ? rescaleZeroTerminalSnr(plain) : plain;
  return { betas, alphasCumprod: cumulativeAlphas(betas) };
}

/**
 * Latents as they are at a training timestep: √ᾱ · original + √(1 − ᾱ) · noise.
 * @param timestep integer in [0, numTrainTimesteps)
 * @throws {UsageError} for a timestep outside the schedule
 */
export function addNoise(
  schedule: NoiseSchedule,
  original: Float32Array,
  noise: Float32Array,
  timestep: number,
): Float32Array {
  const alphaCumprod = alphaCumprodAt(schedule, timestep);
  return combine([Math.sqrt(alphaCumprod), original], [Math.sqrt(1 - alphaCumprod), noise]);
}

/** The target of v-prediction: √ᾱ · noise − √(1 − ᾱ) · original. @throws {UsageError} as `addNoise` */
export function velocity(
  schedule: NoiseSchedule,
  original: Float32Array,
  noise: Float32Array,
  timestep: number,
): Float32Array {
  const alphaCumprod = alphaCumprodAt(schedule, timestep);
  return combine([Math.sqrt(alphaCumprod), noise], [-Math.sqrt(1 - alphaCumprod), original]);
}

function alphaCumprodAt(schedule: NoiseSchedule, timestep: number): number {
  const value = schedule.alphasCumprod[timestep];
  if (value === undefined) {
    throw new UsageError(`timestep: expected an integer in [0, ${schedule.betas.length}), got ${timestep}`);
  }
  return value;
}

/** Round half to even, as numpy does. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** `count` numbers from 0 to `last`, in float64 with numpy's order of operations. */
function linspace(last: number, count: number): number[] {
  if (count === 1) return [0];
  const step = last / (count - 1);
  return Array.from({ length: count }, (_, i) => (i === count - 1 ? last : i * step));
}

/** @throws {UsageError} unless steps is a whole number in 1 … numTrainTimesteps */
function checkSteps(config: SchedulerOptions, steps: number): void {
  if (!Number.isInteger(steps) || steps < 1 || steps > config.numTrainTimesteps) {
    throw new UsageError(
      `steps: expected a whole number from 1 to ${config.numTrainTimesteps}, got ${steps}`,
    );
  }
}

/** @throws {UsageError} if the highest (last) timestep lies beyond the training schedule */
function checkReach(config: SchedulerOptions, ascending: number[]): number[] {
  const highest = ascending[ascending.length - 1]!;
  if (highest >= config.numTrainTimesteps) {
    throw new UsageError(
      `leading spacing of ${ascending.length} steps with offset ${config.stepsOffset}: expected timesteps below ` +
        `${config.numTrainTimesteps}, got ${highest}; take fewer steps or another spacing`,
    );
  }
  return ascending;
}

/**
 * Trailing spacing: last, last − r, last − 2r … rounded, minus 1. Differs from the library, whose arange has one
 * element too many for some step counts (61, 103, 121 …) and then visits timestep −1.
 */
function trailing(last: number, trainTimesteps: number, steps: number): number[] {
  const second = last - trainTimesteps / steps;
  const found: number[] = [];
  for (let i = 0; i < steps; i++) {
    const timestep = roundHalfEven(last + i * (second - last)) - 1;
    if (timestep < 0) break;
    found.push(timestep);
  }
  return found;
}

/**
 * Timesteps of DDIM, DDPM and PNDM, and of the samplers that walk sigmas (Euler, Heun, LMS, KDPM2), decreasing.
 * `whole` rounds the linspace ones to integers; the sigma samplers keep them fractional, in float32.
 * @throws {UsageError} for a step count that the training schedule cannot hold
 */
export function spacedTimesteps(config: SchedulerOptions, steps: number, whole: boolean): number[] {
  checkSteps(config, steps);
  const count = config.numTrainTimesteps;
  switch (config.timestepSpacing) {
    case 'linspace':
      return linspace(count - 1, steps)
        .map((t) => (whole ? roundHalfEven(t) : f32(t)))
        .reverse();
    case 'leading': {
      const ratio = Math.floor(count / steps);
      return checkReach(
        config,
        Array.from({ length: steps }, (_, i) => i * ratio + config.stepsOffset),
      ).reverse();
    }
    case 'trailing':
      return trailing(count, count, steps);
  }
}

/**
 * Timesteps of DPM-Solver and UniPC, decreasing integers: `linspace` and `leading` lay out one point more and drop
 * the lowest.
 * @param last one more than the highest timestep to visit; `numTrainTimesteps` unless clipped
 * @throws {UsageError} as `spacedTimesteps`
 */
export function solverTimesteps(
  config: SchedulerOptions,
  steps: number,
  spacing: TimestepSpacing = config.timestepSpacing,
  last = config.numTrainTimesteps,
): number[] {
  checkSteps(config, steps);
  switch (spacing) {
    case 'linspace':
      return linspace(last - 1, steps + 1)
        .map(roundHalfEven)
        .reverse()
        .slice(0, -1);
    case 'leading': {
      const ratio = Math.floor(last / (steps + 1));
      return checkReach(
        config,
        Array.from({ length: steps }, (_, i) => (i + 1) * ratio + config.stepsOffset),
      ).reverse();
    }
    case 'trailing':
      return trailing(last, config.numTrainTimesteps, steps);
  }
}

/** sigma = √((1 − ᾱ) / ᾱ) of every training timestep, float32 values. */
export function trainingSigmas(alphasCumprod: Float32Array): Float32Array {
  return alphasCumprod.map((value) => Math.sqrt(f32(f32(1 - value) / value)));
}

/**
 * ᾱ whose last value, where it is exactly zero, is 2⁻²⁴ instead, so that the first sigma stays finite. Source: the
 * sigma-based schedulers of diffusers under `rescale_betas_zero_snr`.
 */
export function withFiniteSigmas(config: SchedulerOptions, alphasCumprod: Float32Array): Float32Array {
  if (!config.rescaleBetasZeroSnr) return alphasCumprod;
  const finite = alphasCumprod.slice();
  finite[finite.length - 1] = 2 ** -24;
  return finite;
}

/** Sigma at a (fractional) timestep, linear between the table's entries. */
export function sigmaAt(sigmas: Float32Array, timestep: number): number {
  const low = Math.min(Math.floor(timestep), sigmas.length - 1);
  const sigma = sigmas[low]!;
  if (low === timestep || low === sigmas.length - 1) return sigma;
  return (sigmas[low + 1]! - sigma) * (timestep - low) + sigma;
}

/** The (fractional) timestep of a sigma: linear in log sigma, clamped to the table. */
export function timestepOfSigma(sigmas: Float32Array, sigma: number): number {
  const logSigma = Math.log(Math.max(sigma, 1e-10));
  const logAt = (index: number) => f32(Math.log(sigmas[index]!));
  let low = 0;
  while (low < sigmas.length - 2 && logAt(low + 1) <= logSigma) low++;
  const weight = (logAt(low) - logSigma) / f32(logAt(low) - logAt(low + 1));
  return low + Math.min(Math.max(weight, 0), 1);
}

/**
 * Sigmas from `sigmaMax` to `sigmaMin`, evenly spaced in sigma^(1/7).
 * Source: Karras et al. 2022 (2206.00364), equation 5 with rho = 7.
 */
export function karrasSigmas(sigmaMax: number, sigmaMin: number, steps: number): number[] {
  const rho = 7;
  const first = sigmaMax ** (1 / rho);
  const last = sigmaMin ** (1 / rho);
  return linspace(1, steps).map((ramp) => (first + ramp * (last - first)) ** rho);
}

/** A walk through noise levels: `sigmas` has one entry more than `timesteps`, the level after the last step. */
export interface SigmaSchedule {
  readonly timesteps: readonly number[];
  /** Float32 values. */
  readonly sigmas: Float32Array;
}

/**
 * Timesteps and sigmas of the samplers that walk sigmas (Euler, Heun, LMS, KDPM2).
 * @throws {UsageError} as `spacedTimesteps`
 * Source: diffusers `scheduling_euler_discrete.py`, `set_timesteps`.
 */
export function discreteSigmas(config: SchedulerOptions, steps: number): SigmaSchedule {
  const table = trainingSigmas(withFiniteSigmas(config, noiseSchedule(config).alphasCumprod));
  let timesteps = spacedTimesteps(config, steps, false);
  let sigmas = timesteps.map((timestep) => sigmaAt(table, timestep));
  if (config.useKarrasSigmas) {
    sigmas = karrasSigmas(sigmas[0]!, sigmas[sigmas.length - 1]!, timesteps.length);
    timesteps = sigmas.map((sigma) => f32(timestepOfSigma(table, sigma)));
  }
  const last = config.finalSigmasType === 'sigma_min' ? table[0]! : 0;
  return { timesteps, sigmas: Float32Array.from([...sigmas, last]) };
}

/** Where the classes of diffusers place the sigmas of a solver differently. */
export interface SolverPlacement {
  /** Instead of the config's. */
  readonly spacing?: TimestepSpacing;
  /** Under Karras sigmas and the cosine schedule, cut fractions of timesteps off rather than round. */
  readonly truncate?: boolean;
  /** Under Karras sigmas, the final sigma `sigma_min` is the last of them rather than that of training timestep 0. */
  readonly endAtLast?: boolean;
}

/**
 * Timesteps and sigmas of DPM-Solver and UniPC: whole timesteps, also under Karras sigmas.
 * @throws {UsageError} as `solverTimesteps`
 * Source: diffusers `scheduling_dpmsolver_multistep.py` and `scheduling_unipc_multistep.py`, `set_timesteps`.
 */
export function solverSigmas(
  config: SchedulerOptions,
  steps: number,
  { spacing = config.timestepSpacing, truncate = false, endAtLast = false }: SolverPlacement = {},
): SigmaSchedule {
  const table = trainingSigmas(withFiniteSigmas(config, noiseSchedule(config).alphasCumprod));
  // lambda = log(√ᾱ / √(1 − ᾱ)) = −log sigma
  const clipped = table.filter((sigma) => -Math.log(sigma) < config.lambdaMinClipped).length;
  let timesteps = solverTimesteps(config, steps, spacing, config.numTrainTimesteps - clipped);
  let sigmas = timesteps.map((timestep) => sigmaAt(table, timestep));
  let last = config.finalSigmasType === 'sigma_min' ? table[0]! : 0;
  if (config.useKarrasSigmas) {
    sigmas = karrasSigmas(table[table.length - 1]!, table[0]!, timesteps.length);
    const whole = truncate && config.betaSchedule === 'squaredcos_cap_v2' ? Math.trunc : roundHalfEven;
    timesteps = sigmas.map((sigma) => whole(timestepOfSigma(table, sigma)));
    if (config.finalSigmasType === 'sigma_min' && endAtLast) {
      last = sigmas[sigmas.length - 1]!;
    }
  }
  return { timesteps, sigmas: Float32Array.from([...sigmas, last]) };
}
