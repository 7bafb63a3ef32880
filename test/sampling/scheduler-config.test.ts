import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { parseSchedulerJson, readScheduleKeys } from '../../src/models/model-schedule.ts';
import { namedSamplerConfig, SAMPLER_NAMES } from '../../src/sampling/samplers/create.ts';
import { resolveSchedulerConfig, SCHEDULER_CLASSES } from '../../src/sampling/scheduler-config.ts';
import { goldenJson } from '../support/goldens.ts';

const shipped = path.join(
  import.meta.dirname,
  '../../fixtures/tiny-world/model/scheduler/scheduler_config.json',
);
const model = JSON.parse(readFileSync(shipped, 'utf8')) as Record<string, unknown>;

const resolved = (text: string) => resolveSchedulerConfig(parseSchedulerJson(text, 'f.json'), 'f.json');

describe('scheduler_config.json', () => {
  it('reads the shipped model: PNDM without the Runge–Kutta start', async () => {
    const config = resolveSchedulerConfig(await readScheduleKeys(shipped), shipped);
    expect(config).toMatchObject({
      schedulerClass: 'PNDMScheduler',
      betaSchedule: 'scaled_linear',
      timestepSpacing: 'leading',
      stepsOffset: 1,
      skipPrkSteps: true,
      setAlphaToOne: false,
    });
  });

  it('takes the other class’s own default spacing, and the shared keys from the file', () => {
    const config = resolveSchedulerConfig(model, shipped, 'DPMSolverMultistepScheduler');
    expect(config).toMatchObject({
      timestepSpacing: 'linspace',
      solverOrder: 2,
      stepsOffset: 1,
      betaEnd: 0.012,
    });
  });

  it('reads the bare -Infinity that Python writes', () => {
    const text = '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}';
    expect(resolved(text).lambdaMinClipped).toBe(Number.NEGATIVE_INFINITY);
  });

  // Resolved defaults of every class in the goldens, as the library itself reports them.
  const { variants, sd15_scheduler_config: sd15 } = goldenJson<{
    variants: Record<
      string,
      { class: string; config_overrides: object; resolved_config: Record<string, unknown> }
    >;
    sd15_scheduler_config: object;
  }>('goldens/schedulers/schedulers.json');
  it.each(Object.entries(variants))(
    'defaults of %s',
    (_, { class: name, config_overrides, resolved_config: expected }) => {
      const schedulerClass = SCHEDULER_CLASSES.find((known) => known === name)!;
      const config = resolveSchedulerConfig({ ...sd15, ...config_overrides }, 'f.json', schedulerClass);
      const resolved: Record<string, unknown> = {
        timestep_spacing: config.timestepSpacing,
        steps_offset: config.stepsOffset,
        beta_start: config.betaStart,
        beta_end: config.betaEnd,
        solver_order: config.solverOrder,
        solver_type: config.solverType,
        algorithm_type: config.algorithmType,
        lower_order_final: config.lowerOrderFinal,
        euler_at_final: config.eulerAtFinal,
        final_sigmas_type: config.finalSigmasType,
        use_karras_sigmas: config.useKarrasSigmas,
        predict_x0: config.predictX0,
      };
      for (const [key, value] of Object.entries(resolved)) {
        if (key in expected) expect({ [key]: value }).toEqual({ [key]: expected[key] });
      }
    },
  );

  it.each([
    ['{', /expected JSON/],
    ['[1]', /scheduler config/],
    ['{"_class_name": "FlowMatchEulerDiscreteScheduler"}', /_class_name: expected DDIMScheduler/],
    ['{"_class_name": "DDIMScheduler", "beta_schedule": "exp"}', /beta_schedule/],
    ['{"_class_name": "DDIMScheduler", "num_train_timesteps": 1e9}', /num_train_timesteps/],
    ['{"_class_name": "DDIMScheduler", "thresholding": true}', /thresholding: set, but not supported/],
    ['{"_class_name": "EulerDiscreteScheduler", "use_flow_sigmas": true}', /use_flow_sigmas/],
    [
      '{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}',
      /solver_order: expected 1 to 3, got 4/,
    ],
    ['{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "deis"}', /algorithm_type/],
    ['{"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": true}', /rescale_betas_zero_snr/],
  ])('refuses %s', (text, message) => {
    expect(() => resolved(text)).toThrow(FormatError);
    expect(() => resolved(text)).toThrow(message);
  });

  it('names a file that is not there', async () => {
    await expect(readScheduleKeys('/nowhere/scheduler_config.json')).rejects.toThrow(FormatError);
  });
});

describe('named samplers', () => {
  it.each(SAMPLER_NAMES)('%s has a config for the shipped model', (name) => {
    const config = namedSamplerConfig(name, model, shipped);
    expect(config.betaSchedule).toBe('scaled_linear');
  });

  it('is what its name says even if the model’s file says otherwise', () => {
    const odd = { ...model, solver_order: 3, algorithm_type: 'dpmsolver', final_sigmas_type: 'sigma_min' };
    expect(namedSamplerConfig('dpmpp-2m', odd, shipped)).toMatchObject({
      solverOrder: 2,
      algorithmType: 'dpmsolver++',
      finalSigmasType: 'zero',
    });
  });

  it('refuses unknown names, and Karras sigmas where there are no sigmas', () => {
    expect(() => namedSamplerConfig('plms', model, shipped)).toThrow(UsageError);
    expect(() => namedSamplerConfig('ddim', model, shipped, { useKarrasSigmas: true })).toThrow(/Karras/);
    expect(namedSamplerConfig('euler-a', model, shipped, { useKarrasSigmas: true }).useKarrasSigmas).toBe(
      true,
    );
  });
});
