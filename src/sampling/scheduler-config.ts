/**
 * A diffusers `scheduler_config.json`, read and completed with the defaults of a scheduler class. Options that
 * the samplers here do not have (flow matching, dynamic thresholding, Beta and exponential sigmas …) are refused by
 * name when they are switched on; keys of other classes are ignored, as the library ignores them.
 */

import * as z from 'zod';
import { FormatError } from '../errors.ts';
import { jsonExcerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { PREDICTION_TYPES } from '../models/model-schedule.ts';
import {
  SCHEDULERS,
  type SchedulerClass,
  type SchedulerDefaults,
  type SchedulerEntry,
  type SchedulerOption,
} from './samplers/table.ts';
import type { SchedulerOptions } from './scheduler-options.ts';

/** Scheduler classes of diffusers that have a page in `samplers/`. */
export const SCHEDULER_CLASSES = Object.keys(SCHEDULERS) as readonly SchedulerClass[];

/** A class and every option resolved. */
export interface SchedulerConfig extends SchedulerOptions {
  readonly schedulerClass: SchedulerClass;
}

/** Defaults of the options that not all classes agree on, for the classes that name no other in the table. */
const DEFAULTS: Required<SchedulerDefaults> = {
  betaStart: 0.0001,
  betaEnd: 0.02,
  timestepSpacing: 'linspace',
  clipSample: false,
  setAlphaToOne: false,
  lowerOrderFinal: true,
};

/** What a class takes where a file does not say it. */
export function schedulerDefaults(name: SchedulerClass): Required<SchedulerDefaults> {
  const { defaults }: SchedulerEntry = SCHEDULERS[name];
  return { ...DEFAULTS, ...defaults };
}

const finite = z.number();
/** diffusers writes −∞ as a bare word, which `parseSchedulerJson` turns into this string first. */
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
  prediction_type: z.enum(PREDICTION_TYPES).optional(),
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
type Solver = SchedulerEntry['solver'];

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

function solverType(file: string, solver: Solver, value: string): SchedulerConfig['solverType'] {
  if (solver === undefined) return 'midpoint';
  const known = oneOf(file, 'solver_type', value, ['midpoint', 'heun', 'bh1', 'bh2', 'logrho'] as const);
  // A file saved for one solver and loaded by the other keeps its spelling: both fall back as the library does.
  if (solver === 'dpm') return known === 'heun' ? 'heun' : 'midpoint';
  return known === 'bh1' ? 'bh1' : 'bh2';
}

function checkOrder(file: string, solver: Solver, order: number): number {
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
  const { solver, options }: SchedulerEntry = SCHEDULERS[name];
  const defaults = schedulerDefaults(name);
  const has = (option: SchedulerOption): boolean => options.includes(option);
  if (raw.rescale_betas_zero_snr === true && !has('rescale_betas_zero_snr')) {
    throw new FormatError(file, `rescale_betas_zero_snr: not supported by ${name}; use DDIM, Euler or DPM++`);
  }
  const trainedBetas = raw.trained_betas ?? null;
  return {
    schedulerClass: name,
    numTrainTimesteps: trainedBetas?.length ?? raw.num_train_timesteps ?? 1000,
    betaStart: raw.beta_start ?? defaults.betaStart,
    betaEnd: raw.beta_end ?? defaults.betaEnd,
    betaSchedule: raw.beta_schedule ?? 'linear',
    trainedBetas,
    rescaleBetasZeroSnr: raw.rescale_betas_zero_snr ?? false,
    predictionType: raw.prediction_type ?? 'epsilon',
    timestepSpacing: raw.timestep_spacing ?? defaults.timestepSpacing,
    stepsOffset: raw.steps_offset ?? 0,
    useKarrasSigmas: has('use_karras_sigmas') && (raw.use_karras_sigmas ?? false),
    finalSigmasType: raw.final_sigmas_type ?? 'zero',
    clipSample: has('clip_sample') && (raw.clip_sample ?? defaults.clipSample),
    clipSampleRange: raw.clip_sample_range ?? 1,
    setAlphaToOne: raw.set_alpha_to_one ?? defaults.setAlphaToOne,
    skipPrkSteps: raw.skip_prk_steps ?? false,
    varianceType: has('variance_type')
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
    lowerOrderFinal: raw.lower_order_final ?? defaults.lowerOrderFinal,
    eulerAtFinal: raw.euler_at_final ?? false,
    lambdaMinClipped: raw.lambda_min_clipped ?? Number.NEGATIVE_INFINITY,
    predictX0: raw.predict_x0 ?? true,
    disableCorrector: raw.disable_corrector ?? [],
  };
}
