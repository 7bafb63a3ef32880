/** What a noise schedule and a sampler are told: the options of diffusers' scheduler classes, under one set of names. */

import type { PredictionType } from '../models/model-schedule.ts';

/** Where timesteps lie: table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2305.08891). */
export type TimestepSpacing = 'leading' | 'linspace' | 'trailing';
export type BetaSchedule = 'linear' | 'scaled_linear' | 'squaredcos_cap_v2';

/** Every option resolved. Options that a class does not have hold the value that changes nothing. */
export interface SchedulerOptions {
  /** Length of the training schedule; timesteps are 0 … numTrainTimesteps − 1. */
  readonly numTrainTimesteps: number;
  readonly betaStart: number;
  readonly betaEnd: number;
  readonly betaSchedule: BetaSchedule;
  /** Betas given outright; `null` when the three numbers above define them. */
  readonly trainedBetas: readonly number[] | null;
  /** Shift and scale the betas so that the last step is pure noise (2305.08891, algorithm 1). */
  readonly rescaleBetasZeroSnr: boolean;
  readonly predictionType: PredictionType;
  readonly timestepSpacing: TimestepSpacing;
  /** Added to `leading` timesteps; SD 1.x has 1. */
  readonly stepsOffset: number;
  /** Place sigmas as Karras et al. (2206.00364), equation 5, rho = 7. */
  readonly useKarrasSigmas: boolean;
  /** Sigma after the last step: 0, or that of training timestep 0. */
  readonly finalSigmasType: 'zero' | 'sigma_min';
  /** Clamp the predicted original to ± clipSampleRange (pixel models; SD has `false`). */
  readonly clipSample: boolean;
  readonly clipSampleRange: number;
  /** ᾱ before timestep 0: 1, or that of timestep 0. DDIM and PNDM. */
  readonly setAlphaToOne: boolean;
  /** PNDM: leave out the Runge–Kutta start. */
  readonly skipPrkSteps: boolean;
  /** DDPM: posterior variance (`fixed_small`) or beta (`fixed_large`). */
  readonly varianceType: 'fixed_small' | 'fixed_large';
  /** DPM-Solver 1–3, UniPC ≥ 1. */
  readonly solverOrder: number;
  /** DPM-Solver: `midpoint` or `heun`; UniPC: `bh1` or `bh2`. */
  readonly solverType: 'midpoint' | 'heun' | 'bh1' | 'bh2';
  readonly algorithmType: 'dpmsolver++' | 'sde-dpmsolver++' | 'dpmsolver' | 'sde-dpmsolver';
  readonly lowerOrderFinal: boolean;
  readonly eulerAtFinal: boolean;
  /** DPM-Solver: training timesteps whose log-SNR/2 lies below this are not visited. */
  readonly lambdaMinClipped: number;
  /** UniPC: solve for the original rather than for the noise. */
  readonly predictX0: boolean;
  /** UniPC: step indices without the corrector. */
  readonly disableCorrector: readonly number[];
}

/** What a user may change about the model's own schedule. Left out: as the config has it. */
export interface ScheduleOverrides {
  readonly timestepSpacing?: TimestepSpacing;
  readonly useKarrasSigmas?: boolean;
}
