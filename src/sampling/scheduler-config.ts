/**
 * A diffusers `scheduler_config.json`, read and completed with the defaults of a scheduler class. Options that
 * the samplers here do not have (flow matching, dynamic thresholding, Beta and exponential sigmas …) are refused by
 * name when they are switched on; keys of other classes are ignored, as the library ignores them.
 */

import * as z from 'zod';
import { FormatError, UsageError } from '../errors.ts';
import { jsonExcerpt } from '../formats/excerpt.ts';
import { MAX_CONFIG_BYTES } from '../formats/json-file.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { parseJson } from '../formats/strict-json.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { withDefaults } from '../settings.ts';

/** Scheduler classes of diffusers that have a page in `samplers/`. */
export const SCHEDULER_CLASSES = [
  'DDIMScheduler',
  'DDPMScheduler',
  'PNDMScheduler',
  'LMSDiscreteScheduler',
  'EulerDiscreteScheduler',
  'EulerAncestralDiscreteScheduler',
  'HeunDiscreteScheduler',
  'KDPM2DiscreteScheduler',
  'DPMSolverMultistepScheduler',
  'DPMSolverSinglestepScheduler',
  'UniPCMultistepScheduler',
] as const;

export type SchedulerClass = (typeof SCHEDULER_CLASSES)[number];
/** What the network's output is: the noise, the velocity √ᾱ·noise − √(1−ᾱ)·original, or the original itself. */
export type PredictionType = 'epsilon' | 'v_prediction' | 'sample';
/** Where timesteps lie: table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2305.08891). */
export type TimestepSpacing = 'leading' | 'linspace' | 'trailing';
export type BetaSchedule = 'linear' | 'scaled_linear' | 'squaredcos_cap_v2';

/** Every option resolved. Options that a class does not have hold the value that changes nothing. */
export interface SchedulerConfig {
  readonly schedulerClass: SchedulerClass;
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

const finite = z.number();
/** diffusers writes −∞ as a bare word, which `parseSchedulerConfig` turns into this string first. */
const number = z.union([finite, z.literal('-Infinity').transform(() => Number.NEGATIVE_INFINITY)]);
const flag = z.boolean();

const schema = z.object({
  _class_name: z.string().optional(),
  num_train_timesteps: z.int().min(2).max(100_000).optional(),
  beta_start: finite.positive().optional(),
  beta_end: finite.positive().lt(1).optional(),
  beta_schedule: z.enum(['linear', 'scaled_linear', 'squaredcos_cap_v2']).optional(),
  trained_betas: z.array(finite.gt(0).lt(1)).min(2).max(100_000).nullish(),
  rescale_betas_zero_snr: flag.optional(),
  prediction_type: z.enum(['epsilon', 'v_prediction', 'sample']).optional(),
  timestep_spacing: z.enum(['leading', 'linspace', 'trailing']).optional(),
  steps_offset: z.int().min(0).optional(),
  use_karras_sigmas: flag.nullish(),
  final_sigmas_type: z.enum(['zero', 'sigma_min']).optional(),
  clip_sample: flag.optional(),
  clip_sample_range: finite.positive().optional(),
  set_alpha_to_one: flag.optional(),
  skip_prk_steps: flag.optional(),
  variance_type: z.string().nullish(),
  solver_order: z.int().min(1).optional(),
  solver_type: z.string().optional(),
  algorithm_type: z.string().optional(),
  lower_order_final: flag.optional(),
  euler_at_final: flag.optional(),
  lambda_min_clipped: number.optional(),
  predict_x0: flag.optional(),
  disable_corrector: z.array(z.int()).optional(),
  thresholding: flag.optional(),
  use_exponential_sigmas: flag.nullish(),
  use_beta_sigmas: flag.nullish(),
  use_flow_sigmas: flag.nullish(),
  use_lu_lambdas: flag.nullish(),
  interpolation_type: z.string().optional(),
  timestep_type: z.string().optional(),
  sigma_min: finite.nullish(),
  sigma_max: finite.nullish(),
});

type RawConfig = z.infer<typeof schema>;
type Solver = 'dpm' | 'unipc';

const SOLVER: Partial<Record<SchedulerClass, Solver>> = {
  DPMSolverMultistepScheduler: 'dpm',
  DPMSolverSinglestepScheduler: 'dpm',
  UniPCMultistepScheduler: 'unipc',
};
/** Classes that take the spacing `leading` when none is named; the others take `linspace`. */
const LEADING: readonly SchedulerClass[] = ['DDIMScheduler', 'DDPMScheduler', 'PNDMScheduler'];
/** Classes whose betas run from 0.00085 to 0.012 when none are named; the others 0.0001 to 0.02. */
const LATENT_BETAS: readonly SchedulerClass[] = ['HeunDiscreteScheduler', 'KDPM2DiscreteScheduler'];
/** Classes that cannot place sigmas; Euler ancestral can here, but not by its file, as in the library. */
const NO_KARRAS_KEY: readonly SchedulerClass[] = [...LEADING, 'EulerAncestralDiscreteScheduler'];
const CLIPS: readonly SchedulerClass[] = ['DDIMScheduler', 'DDPMScheduler', 'HeunDiscreteScheduler'];
const NO_ZERO_SNR: readonly SchedulerClass[] = [
  'PNDMScheduler',
  'LMSDiscreteScheduler',
  'HeunDiscreteScheduler',
  'KDPM2DiscreteScheduler',
  'DPMSolverSinglestepScheduler',
];

/** Is this the name of a scheduler class that is implemented here? */
export function isSchedulerClass(name: string): name is SchedulerClass {
  return (SCHEDULER_CLASSES as readonly string[]).includes(name);
}

function oneOf<T extends string>(file: string, key: string, value: string, known: readonly T[]): T {
  const found = known.find((candidate) => candidate === value);
  if (found === undefined) {
    throw new FormatError(file, `${key}: expected ${known.join(' or ')}, got ${jsonExcerpt(value)}`);
  }
  return found;
}

function refuseUnsupported(file: string, raw: RawConfig): void {
  const switchedOn: [string, boolean][] = [
    ['thresholding', raw.thresholding === true],
    ['use_exponential_sigmas', raw.use_exponential_sigmas === true],
    ['use_beta_sigmas', raw.use_beta_sigmas === true],
    ['use_flow_sigmas', raw.use_flow_sigmas === true],
    ['use_lu_lambdas', raw.use_lu_lambdas === true],
    ['interpolation_type', (raw.interpolation_type ?? 'linear') !== 'linear'],
    ['timestep_type', (raw.timestep_type ?? 'discrete') !== 'discrete'],
    ['sigma_min', typeof raw.sigma_min === 'number'],
    ['sigma_max', typeof raw.sigma_max === 'number'],
  ];
  const found = switchedOn.filter(([, on]) => on).map(([key]) => key);
  if (found.length > 0) {
    throw new FormatError(file, `${found.join(', ')}: set, but not supported; choose another sampler`);
  }
}

function solverType(file: string, solver: Solver | undefined, value: string): SchedulerConfig['solverType'] {
  if (solver === undefined) return 'midpoint';
  const known = oneOf(file, 'solver_type', value, ['midpoint', 'heun', 'bh1', 'bh2', 'logrho'] as const);
  // A file saved for one solver and loaded by the other keeps its spelling: both fall back as the library does.
  if (solver === 'dpm') return known === 'heun' ? 'heun' : 'midpoint';
  return known === 'bh1' ? 'bh1' : 'bh2';
}

function checkOrder(file: string, solver: Solver | undefined, order: number): number {
  const highest = solver === 'dpm' ? 3 : 9;
  if (order > highest) {
    throw new FormatError(file, `solver_order: expected 1 to ${highest}, got ${order}`);
  }
  return order;
}

/**
 * Complete the contents of a scheduler_config.json with the defaults of a class.
 * @param json           parsed contents
 * @param file           named in errors
 * @param schedulerClass the class to take defaults and solver from; `null`: the one that the file names.
 *                       Like the library's `from_config`, another class than the saved one takes the shared keys
 *                       and its own default for the rest (spacing among them).
 * @throws {FormatError} on a wrong type, an unknown class, or an option that is not supported
 * Source: diffusers 0.40, `schedulers/scheduling_*.py`, constructor defaults.
 */
export function resolveSchedulerConfig(
  json: unknown,
  file: string,
  schedulerClass: SchedulerClass | null = null,
): SchedulerConfig {
  const parsed = safeParse(schema, json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new FormatError(file, `${issue.path.join('.') || 'scheduler config'}: ${issue.message}`);
  }
  const raw = parsed.data;
  refuseUnsupported(file, raw);
  const name = schedulerClass ?? oneOf(file, '_class_name', raw._class_name ?? '', SCHEDULER_CLASSES);
  const solver = SOLVER[name];
  const leading = LEADING.includes(name);
  const latent = LATENT_BETAS.includes(name);
  if (raw.rescale_betas_zero_snr === true && NO_ZERO_SNR.includes(name)) {
    throw new FormatError(file, `rescale_betas_zero_snr: not supported by ${name}; use DDIM, Euler or DPM++`);
  }
  const trainedBetas = raw.trained_betas ?? null;
  return {
    schedulerClass: name,
    numTrainTimesteps: trainedBetas?.length ?? raw.num_train_timesteps ?? 1000,
    betaStart: raw.beta_start ?? (latent ? 0.00085 : 0.0001),
    betaEnd: raw.beta_end ?? (latent ? 0.012 : 0.02),
    betaSchedule: raw.beta_schedule ?? 'linear',
    trainedBetas,
    rescaleBetasZeroSnr: raw.rescale_betas_zero_snr ?? false,
    predictionType: raw.prediction_type ?? 'epsilon',
    timestepSpacing: raw.timestep_spacing ?? (leading ? 'leading' : 'linspace'),
    stepsOffset: raw.steps_offset ?? 0,
    useKarrasSigmas: NO_KARRAS_KEY.includes(name) ? false : (raw.use_karras_sigmas ?? false),
    finalSigmasType: raw.final_sigmas_type ?? 'zero',
    clipSample: CLIPS.includes(name) ? (raw.clip_sample ?? name !== 'HeunDiscreteScheduler') : false,
    clipSampleRange: raw.clip_sample_range ?? 1,
    setAlphaToOne: raw.set_alpha_to_one ?? name === 'DDIMScheduler',
    skipPrkSteps: raw.skip_prk_steps ?? false,
    varianceType:
      name === 'DDPMScheduler'
        ? oneOf(file, 'variance_type', raw.variance_type ?? 'fixed_small', ['fixed_small', 'fixed_large'])
        : 'fixed_small',
    solverOrder: checkOrder(file, solver, raw.solver_order ?? 2),
    solverType: solverType(file, solver, raw.solver_type ?? (solver === 'dpm' ? 'midpoint' : 'bh2')),
    algorithmType:
      solver === 'dpm'
        ? oneOf(file, 'algorithm_type', raw.algorithm_type ?? 'dpmsolver++', [
            'dpmsolver++',
            'sde-dpmsolver++',
            'dpmsolver',
            'sde-dpmsolver',
          ])
        : 'dpmsolver++',
    lowerOrderFinal: raw.lower_order_final ?? name !== 'DPMSolverSinglestepScheduler',
    eulerAtFinal: raw.euler_at_final ?? false,
    lambdaMinClipped: raw.lambda_min_clipped ?? Number.NEGATIVE_INFINITY,
    predictX0: raw.predict_x0 ?? true,
    disableCorrector: raw.disable_corrector ?? [],
  };
}

/**
 * Parse the text of a scheduler_config.json. Python's `json` writes infinities as bare words; they are read.
 * @throws {FormatError} if it is not JSON, or as `resolveSchedulerConfig`
 */
export function parseSchedulerConfig(
  text: string,
  file: string,
  schedulerClass: SchedulerClass | null = null,
): SchedulerConfig {
  return resolveSchedulerConfig(parseSchedulerJson(text, file), file, schedulerClass);
}

/** The contents of a scheduler_config.json as they are. @throws {FormatError} if it is not JSON */
export function parseSchedulerJson(text: string, file: string): unknown {
  return parseJson(text.replace(/(:\s*)(-?Infinity)(?=\s*[,}])/g, '$1"$2"'), file);
}

/** Read a scheduler_config.json. @throws {FormatError} if it cannot be read, or as `parseSchedulerConfig` */
export async function readSchedulerConfig(
  file: string,
  schedulerClass: SchedulerClass | null = null,
): Promise<SchedulerConfig> {
  return parseSchedulerConfig(await readSchedulerText(file), file, schedulerClass);
}

/** The text of a scheduler_config.json. @throws {FormatError} if it cannot be read */
export function readSchedulerText(file: string): Promise<string> {
  return readTextFile(file, MAX_CONFIG_BYTES, 'a scheduler_config.json');
}

/** What a user may change about the model's own schedule. Left out: as the config has it. */
export interface ScheduleOverrides {
  readonly timestepSpacing?: TimestepSpacing;
  readonly useKarrasSigmas?: boolean;
  readonly predictionType?: PredictionType;
}

/**
 * A config with the user's choices in place.
 * @throws {UsageError} for Karras sigmas with a sampler that walks integer timesteps only (ddim, ddpm, pndm)
 */
export function withSchedule(config: SchedulerConfig, overrides: ScheduleOverrides): SchedulerConfig {
  if (overrides.useKarrasSigmas === true && LEADING.includes(config.schedulerClass)) {
    throw new UsageError(
      `Karras sigmas: ${config.schedulerClass} walks timesteps, not sigmas; use euler, heun, lms, dpmpp-2m or unipc`,
    );
  }
  return withDefaults(config, overrides);
}
