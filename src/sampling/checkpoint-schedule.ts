/** The noise schedule that belongs to a checkpoint. */
import { FormatError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { namedSamplerConfig } from './samplers/create.ts';
import type { SchedulerClass } from './samplers/table.ts';
import {
  parseSchedulerConfig,
  parseSchedulerJson,
  readSchedulerText,
  resolveSchedulerConfig,
  type SchedulerConfig,
} from './scheduler-config.ts';
import type { ScheduleOverrides } from './scheduler-options.ts';

/** Source: huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, scheduler/scheduler_config.json */
export const SD15_SCHEDULER = {
  _class_name: 'PNDMScheduler',
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  beta_start: 0.00085,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  clip_sample: false,
} as const;

/**
 * The checkpoint's scheduler config, or SD 1.5's where it has none (single files), for one class of sampler.
 * @param schedulerClass null: the class the config names
 * @throws {FormatError} if the config is damaged or asks for something unsupported
 */
export async function checkpointSchedule(
  { path, schedulerConfigFile: file }: Checkpoint,
  schedulerClass: SchedulerClass | null = null,
): Promise<SchedulerConfig> {
  if (file === null) return resolveSchedulerConfig(SD15_SCHEDULER, path, schedulerClass);
  return parseSchedulerConfig(await readSchedulerText(file), file, schedulerClass);
}

/**
 * The checkpoint's schedule for a sampler by name (`dpmpp-2m`, `euler-a`, …).
 * @throws {UsageError} for an unknown name or an impossible override
 * @throws {FormatError} as `checkpointSchedule`
 */
export async function checkpointSampler(
  { path, schedulerConfigFile: file }: Checkpoint,
  name: string,
  overrides: ScheduleOverrides = {},
): Promise<SchedulerConfig> {
  if (file === null) return namedSamplerConfig(name, SD15_SCHEDULER, path, overrides);
  const json = parseSchedulerJson(await readSchedulerText(file), file);
  if (typeof json !== 'object' || json === null) throw new FormatError(file, 'expected a JSON object');
  return namedSamplerConfig(name, json as Readonly<Record<string, unknown>>, file, overrides);
}
