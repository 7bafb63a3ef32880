/** From a sampler's short name or a scheduler class to its page. */
import { UsageError } from '../../errors.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { withDefaults } from '../../settings.ts';
import { resolveSchedulerConfig, type SchedulerConfig } from '../scheduler-config.ts';
import type { ScheduleOverrides } from '../scheduler-options.ts';
import type { Sampler, SamplerOptions } from './sampler.ts';
import { type NamedSampler, type SamplerName, SCHEDULERS, type SchedulerClass } from './table.ts';

const NAMED: ReadonlyMap<string, NamedSampler & { readonly schedulerClass: SchedulerClass }> = new Map(
  (Object.keys(SCHEDULERS) as SchedulerClass[]).flatMap((schedulerClass) =>
    Object.entries<NamedSampler>(SCHEDULERS[schedulerClass].names).map(
      ([name, named]) => [name, { ...named, schedulerClass }] as const,
    ),
  ),
);

/** The short names, in the order of the table. */
export const SAMPLER_NAMES = [...NAMED.keys()] as readonly SamplerName[];

/**
 * The sampler of a resolved config.
 * @param steps the user's step count, 1 … numTrainTimesteps
 * @throws {UsageError} for an impossible step count or combination of options
 */
export function createSampler(config: SchedulerConfig, steps: number, options: SamplerOptions = {}): Sampler {
  return SCHEDULERS[config.schedulerClass].create(config, steps, options);
}

/** Is this a sampler's short name? */
export function isSamplerName(name: string): name is SamplerName {
  return NAMED.has(name);
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
  const { schedulerClass, config } = NAMED.get(name)!;
  return withSchedule(resolveSchedulerConfig({ ...model, ...config }, file, schedulerClass), overrides);
}

/** A sampler as web UIs call it; a name that is none stays as it is. */
export function samplerDisplayName(name: string): string {
  return NAMED.get(name)?.display ?? name;
}

/**
 * A config with the user's choices in place.
 * @throws {UsageError} for Karras sigmas with a sampler that walks integer timesteps only (ddim, ddpm, pndm)
 */
function withSchedule(config: SchedulerConfig, overrides: ScheduleOverrides): SchedulerConfig {
  if (overrides.useKarrasSigmas === true && SCHEDULERS[config.schedulerClass].walks === 'timesteps') {
    throw new UsageError(
      `Karras sigmas: ${config.schedulerClass} walks timesteps, not sigmas; use euler, heun, lms, dpmpp-2m or unipc`,
    );
  }
  return withDefaults(config, overrides);
}
