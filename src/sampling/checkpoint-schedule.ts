/** The noise schedule that belongs to a checkpoint. */
import { readFile } from 'node:fs/promises';
import type { Checkpoint } from '../models/checkpoint.ts';
import {
  parseSchedulerConfig,
  resolveSchedulerConfig,
  type SchedulerClass,
  type SchedulerConfig,
} from './scheduler-config.ts';

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
  return parseSchedulerConfig(await readFile(file, 'utf8'), file, schedulerClass);
}
