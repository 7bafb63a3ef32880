/** From a sampler's short name or a scheduler class to its page. */
import { UsageError } from '../../errors.ts';
import { excerpt } from '../../formats/excerpt.ts';
import {
  resolveSchedulerConfig,
  type ScheduleOverrides,
  type SchedulerClass,
  type SchedulerConfig,
  withSchedule,
} from '../scheduler-config.ts';
import { ddim } from './ddim.ts';
import { ddpm } from './ddpm.ts';
import { dpmSolver } from './dpm-solver.ts';
import { dpmSolverSinglestep } from './dpm-solver-singlestep.ts';
import { euler } from './euler.ts';
import { eulerAncestral } from './euler-ancestral.ts';
import { heun } from './heun.ts';
import { kdpm2 } from './kdpm2.ts';
import { lms } from './lms.ts';
import { pndm } from './pndm.ts';
import type { Sampler } from './sampler.ts';
import { unipc } from './unipc.ts';

/** What belongs to a run rather than to the model's config. */
export interface SamplerOptions {
  /** DDIM: share of fresh noise, 0 (default) to 1. The other samplers have no use for it. */
  readonly eta?: number;
}

const PAGES: Readonly<
  Record<SchedulerClass, (config: SchedulerConfig, steps: number, options: SamplerOptions) => Sampler>
> = {
  DDIMScheduler: ddim,
  DDPMScheduler: ddpm,
  PNDMScheduler: pndm,
  LMSDiscreteScheduler: lms,
  EulerDiscreteScheduler: euler,
  EulerAncestralDiscreteScheduler: eulerAncestral,
  HeunDiscreteScheduler: heun,
  KDPM2DiscreteScheduler: kdpm2,
  DPMSolverMultistepScheduler: dpmSolver,
  DPMSolverSinglestepScheduler: dpmSolverSinglestep,
  UniPCMultistepScheduler: unipc,
};

/**
 * The sampler of a resolved config.
 * @param steps the user's step count, 1 … numTrainTimesteps
 * @throws {UsageError} for an impossible step count or combination of options
 */
export function createSampler(config: SchedulerConfig, steps: number, options: SamplerOptions = {}): Sampler {
  return PAGES[config.schedulerClass](config, steps, options);
}

/** A short name: the class it stands for, and the options that make it what the name says. */
interface NamedSampler {
  readonly schedulerClass: SchedulerClass;
  readonly config: Readonly<Record<string, unknown>>;
}

const MULTISTEP = { solver_order: 2, solver_type: 'midpoint', lower_order_final: true };

const SAMPLERS = {
  ddim: { schedulerClass: 'DDIMScheduler', config: {} },
  ddpm: { schedulerClass: 'DDPMScheduler', config: {} },
  pndm: { schedulerClass: 'PNDMScheduler', config: {} },
  lms: { schedulerClass: 'LMSDiscreteScheduler', config: {} },
  euler: { schedulerClass: 'EulerDiscreteScheduler', config: {} },
  'euler-a': { schedulerClass: 'EulerAncestralDiscreteScheduler', config: {} },
  heun: { schedulerClass: 'HeunDiscreteScheduler', config: {} },
  dpm2: { schedulerClass: 'KDPM2DiscreteScheduler', config: {} },
  'dpmpp-2m': {
    schedulerClass: 'DPMSolverMultistepScheduler',
    config: { ...MULTISTEP, algorithm_type: 'dpmsolver++', final_sigmas_type: 'zero' },
  },
  'dpmpp-2m-sde': {
    schedulerClass: 'DPMSolverMultistepScheduler',
    config: { ...MULTISTEP, algorithm_type: 'sde-dpmsolver++', final_sigmas_type: 'zero' },
  },
  'dpmpp-2s': {
    schedulerClass: 'DPMSolverSinglestepScheduler',
    config: {
      solver_order: 2,
      solver_type: 'midpoint',
      algorithm_type: 'dpmsolver++',
      final_sigmas_type: 'zero',
    },
  },
  unipc: { schedulerClass: 'UniPCMultistepScheduler', config: {} },
} as const satisfies Readonly<Record<string, NamedSampler>>;

export type SamplerName = keyof typeof SAMPLERS;
export const SAMPLER_NAMES = Object.keys(SAMPLERS) as readonly SamplerName[];

/** Is this a sampler's short name? */
export function isSamplerName(name: string): name is SamplerName {
  return (SAMPLER_NAMES as readonly string[]).includes(name);
}

/**
 * The config of a named sampler for a model: the model's schedule, the class's own defaults for what the model's file
 * does not say, and the solver options that the name stands for.
 * @param name  a short name, e.g. `dpmpp-2m`
 * @param model parsed contents of the model's scheduler_config.json
 * @param file  named in errors
 * @throws {UsageError} for an unknown name, or Karras sigmas where there are none
 * @throws {FormatError} as `resolveSchedulerConfig`
 */
export function namedSamplerConfig(
  name: string,
  model: Readonly<Record<string, unknown>>,
  file: string,
  overrides: ScheduleOverrides = {},
): SchedulerConfig {
  if (!isSamplerName(name)) {
    throw new UsageError(`sampler: expected one of ${SAMPLER_NAMES.join(', ')}, got "${excerpt(name)}"`);
  }
  const { schedulerClass, config } = SAMPLERS[name];
  return withSchedule(resolveSchedulerConfig({ ...model, ...config }, file, schedulerClass), overrides);
}
