/**
 * The samplers, one entry for each scheduler class of diffusers: its page, its names, and what sets it apart from the
 * other classes. All that the reader of configs, the command line and pictures know of a sampler stands here.
 */
import type { SchedulerOptions } from '../scheduler-options.ts';
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
import type { Sampler, SamplerOptions } from './sampler.ts';
import { unipc } from './unipc.ts';

/** A short name of a sampler, for users. */
export interface NamedSampler {
  /** As web UIs call it. */
  readonly display: string;
  /** Keys of scheduler_config.json that make the class what the name says, whatever the model's file has. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** Options whose defaults differ between the classes. */
export type SchedulerDefaults = Partial<
  Pick<
    SchedulerOptions,
    'betaStart' | 'betaEnd' | 'timestepSpacing' | 'clipSample' | 'setAlphaToOne' | 'lowerOrderFinal'
  >
>;

/** Keys of scheduler_config.json that some classes have and others ignore or refuse. */
export type SchedulerOption =
  | 'use_karras_sigmas'
  | 'clip_sample'
  | 'rescale_betas_zero_snr'
  | 'variance_type';

export interface SchedulerEntry {
  readonly create: (config: SchedulerOptions, steps: number, options: SamplerOptions) => Sampler;
  readonly names: Readonly<Record<string, NamedSampler>>;
  /** Samplers that walk integer timesteps cannot place sigmas as Karras et al. do. */
  readonly walks: 'timesteps' | 'sigmas';
  /** Whose `solver_order`, `solver_type` and `algorithm_type` it reads. Left out: it is no multistep solver. */
  readonly solver?: 'dpm' | 'unipc';
  /** Where they differ from those of most classes. */
  readonly defaults?: SchedulerDefaults;
  readonly options: readonly SchedulerOption[];
}

const MULTISTEP = { solver_order: 2, solver_type: 'midpoint', lower_order_final: true };
const LATENT_BETAS = { betaStart: 0.00085, betaEnd: 0.012 };

export const SCHEDULERS = {
  DDIMScheduler: {
    create: ddim,
    names: { ddim: { display: 'DDIM', config: {} } },
    walks: 'timesteps',
    defaults: { timestepSpacing: 'leading', clipSample: true, setAlphaToOne: true },
    options: ['clip_sample', 'rescale_betas_zero_snr'],
  },
  DDPMScheduler: {
    create: ddpm,
    names: { ddpm: { display: 'DDPM', config: {} } },
    walks: 'timesteps',
    defaults: { timestepSpacing: 'leading', clipSample: true },
    options: ['clip_sample', 'rescale_betas_zero_snr', 'variance_type'],
  },
  PNDMScheduler: {
    create: pndm,
    names: { pndm: { display: 'PLMS', config: {} } },
    walks: 'timesteps',
    defaults: { timestepSpacing: 'leading' },
    options: [],
  },
  LMSDiscreteScheduler: {
    create: lms,
    names: { lms: { display: 'LMS', config: {} } },
    walks: 'sigmas',
    options: ['use_karras_sigmas'],
  },
  EulerDiscreteScheduler: {
    create: euler,
    names: { euler: { display: 'Euler', config: {} } },
    walks: 'sigmas',
    options: ['use_karras_sigmas', 'rescale_betas_zero_snr'],
  },
  EulerAncestralDiscreteScheduler: {
    create: eulerAncestral,
    names: { 'euler-a': { display: 'Euler a', config: {} } },
    walks: 'sigmas',
    // It can place Karras sigmas here, but not by its file, as in the library.
    options: ['rescale_betas_zero_snr'],
  },
  HeunDiscreteScheduler: {
    create: heun,
    names: { heun: { display: 'Heun', config: {} } },
    walks: 'sigmas',
    defaults: LATENT_BETAS,
    options: ['use_karras_sigmas', 'clip_sample'],
  },
  KDPM2DiscreteScheduler: {
    create: kdpm2,
    names: { dpm2: { display: 'DPM2', config: {} } },
    walks: 'sigmas',
    defaults: LATENT_BETAS,
    options: ['use_karras_sigmas'],
  },
  DPMSolverMultistepScheduler: {
    create: dpmSolver,
    names: {
      'dpmpp-2m': {
        display: 'DPM++ 2M',
        config: { ...MULTISTEP, algorithm_type: 'dpmsolver++', final_sigmas_type: 'zero' },
      },
      'dpmpp-2m-sde': {
        display: 'DPM++ 2M SDE',
        config: { ...MULTISTEP, algorithm_type: 'sde-dpmsolver++', final_sigmas_type: 'zero' },
      },
    },
    walks: 'sigmas',
    solver: 'dpm',
    options: ['use_karras_sigmas', 'rescale_betas_zero_snr'],
  },
  DPMSolverSinglestepScheduler: {
    create: dpmSolverSinglestep,
    names: {
      'dpmpp-2s': {
        display: 'DPM++ 2S',
        config: {
          solver_order: 2,
          solver_type: 'midpoint',
          algorithm_type: 'dpmsolver++',
          final_sigmas_type: 'zero',
        },
      },
    },
    walks: 'sigmas',
    solver: 'dpm',
    defaults: { lowerOrderFinal: false },
    options: ['use_karras_sigmas'],
  },
  UniPCMultistepScheduler: {
    create: unipc,
    names: { unipc: { display: 'UniPC', config: {} } },
    walks: 'sigmas',
    solver: 'unipc',
    options: ['use_karras_sigmas', 'rescale_betas_zero_snr'],
  },
} as const satisfies Readonly<Record<string, SchedulerEntry>>;

export type SchedulerClass = keyof typeof SCHEDULERS;
export type SamplerName = {
  [Class in SchedulerClass]: keyof (typeof SCHEDULERS)[Class]['names'];
}[SchedulerClass];
