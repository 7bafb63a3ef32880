/** The noise schedule that belongs to a checkpoint. */
import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ModelSchedule, ScheduleKeys } from '../models/model-schedule.ts';
import { namedSamplerConfig } from './samplers/create.ts';
import {
  isSchedulerClass,
  resolveSchedulerConfig,
  type SchedulerConfig,
  schedulerDefaults,
} from './scheduler-config.ts';
import type { ScheduleOverrides } from './scheduler-options.ts';

/** What was true when the model was trained, whichever class wrote the file. */
const NOISE = [
  'num_train_timesteps',
  'beta_start',
  'beta_end',
  'beta_schedule',
  'trained_betas',
  'rescale_betas_zero_snr',
  'prediction_type',
  // No betas at all: refused where it is on.
  'use_flow_sigmas',
] as const;
/** Where the classes that are known here place timesteps. */
const PLACES = ['timestep_spacing', 'steps_offset', 'use_karras_sigmas'] as const;

/**
 * The checkpoint's noise, what its UNet predicts, and DPM-Solver++ 2M over it: what training and the collection of features
 * go by. The class that the file names, and what only that class reads, do not matter.
 * @throws {FormatError} for a damaged configuration, or one without betas
 */
export function checkpointSchedule({ schedule }: Pick<Checkpoint, 'schedule'>): SchedulerConfig {
  const { file } = schedule;
  const config = withBetas(schedule);
  const kept = isSchedulerClass(classIn(config)) ? [...NOISE, ...PLACES] : NOISE;
  const own = Object.fromEntries(kept.flatMap((key) => (key in config ? [[key, config[key]]] : [])));
  return resolveSchedulerConfig(own, file, 'DPMSolverMultistepScheduler');
}

/**
 * The checkpoint's schedule for a sampler by name (`dpmpp-2m`, `euler-a`, …).
 * @throws {UsageError} for an unknown name or an impossible override
 * @throws {FormatError} as `checkpointSchedule`, or for an option that is on and that the sampler lacks
 */
export function checkpointSampler(
  { schedule }: Pick<Checkpoint, 'schedule'>,
  name: string,
  overrides: ScheduleOverrides = {},
): SchedulerConfig {
  return namedSamplerConfig(name, withBetas(schedule), schedule.file, overrides);
}

/** Its scheduler class; empty where it names none. */
function classIn({ _class_name: name }: ScheduleKeys): string {
  return typeof name === 'string' ? name : '';
}

/**
 * The configuration with the betas written out.
 * @throws {FormatError} if neither the file nor its class says them: flow matching, and what walks sigmas of its own
 */
function withBetas({ config, file }: ModelSchedule): ScheduleKeys {
  const name = classIn(config);
  if (isSchedulerClass(name)) {
    const { betaStart, betaEnd } = schedulerDefaults(name);
    return { beta_start: betaStart, beta_end: betaEnd, ...config };
  }
  const betas = ['beta_start', 'beta_end', 'beta_schedule'];
  const missing = Array.isArray(config.trained_betas) ? [] : betas.filter((key) => !(key in config));
  if (missing.length === 0) return config;
  throw new FormatError(
    file,
    `expected ${missing.join(', ')} of a ${excerpt(name) || 'scheduler without _class_name'}, got none; ` +
      'only models trained with betas are supported',
  );
}
