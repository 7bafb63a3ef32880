/** Bases whose scheduler is of a class that is not walked here: the noise that they were trained with is what counts. */
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { checkpointSampler, checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../../src/sampling/noise-schedule.ts';
import { createSampler, SAMPLER_NAMES } from '../../src/sampling/samplers/create.ts';
import { goldenJson } from '../support/goldens.ts';

const deis = goldenJson<Record<string, unknown>>('cases/training/sched/deis_scheduler_config.json');
const betas = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' };
const of = (config: Record<string, unknown>) => ({ schedule: { config, file: 'scheduler_config.json' } });

describe.each<[string, Record<string, unknown>]>([
  ['DEIS', deis],
  [
    'LCM',
    {
      _class_name: 'LCMScheduler',
      ...betas,
      original_inference_steps: 50,
      timestep_scaling: 10,
      timestep_spacing: 'leading',
    },
  ],
  [
    'TCD',
    { _class_name: 'TCDScheduler', ...betas, timestep_spacing: 'leading', rescale_betas_zero_snr: false },
  ],
  [
    'SASolver',
    {
      _class_name: 'SASolverScheduler',
      ...betas,
      algorithm_type: 'data_prediction',
      predictor_order: 2,
      tau_func: null,
    },
  ],
  [
    'a class of the future',
    {
      _class_name: 'NextYearScheduler',
      ...betas,
      solver_type: 7,
      timestep_spacing: 'dense',
      thresholding: true,
    },
  ],
])('a base with %s', (_, config) => {
  it('is trained and fused on its own betas', () => {
    const schedule = checkpointSchedule(of({ ...config, prediction_type: 'v_prediction' }));
    expect(schedule).toMatchObject({
      predictionType: 'v_prediction',
      algorithmType: 'dpmsolver++',
      solverOrder: 2,
    });
    const pndm = checkpointSchedule(of({ _class_name: 'PNDMScheduler', ...betas }));
    expect(noiseSchedule(schedule)).toEqual(noiseSchedule(pndm));
  });
});

it.each(SAMPLER_NAMES)('%s draws on a base with DEIS', (name) => {
  expect(createSampler(checkpointSampler(of(deis), name), 4).timesteps.length).toBeGreaterThan(3);
});

it.each<[string, Record<string, unknown>]>([
  [
    'solver of its own',
    {
      _class_name: 'DPMSolverMultistepScheduler',
      ...betas,
      algorithm_type: 'sde-dpmsolver++',
      solver_order: 3,
    },
  ],
  [
    'sigmas that nobody walks here',
    { _class_name: 'EulerDiscreteScheduler', ...betas, use_exponential_sigmas: true },
  ],
  ['variance', { _class_name: 'DDPMScheduler', ...betas, variance_type: 'learned', thresholding: true }],
])('a file’s %s is nothing to training and features', (_, config) => {
  expect(checkpointSchedule(of(config))).toEqual(
    checkpointSchedule(of({ _class_name: config._class_name, ...betas })),
  );
});

it('a file without betas has those of its class', () => {
  expect(checkpointSchedule(of({ _class_name: 'HeunDiscreteScheduler' }))).toMatchObject({
    betaStart: 0.00085,
    betaEnd: 0.012,
  });
  expect(checkpointSchedule(of({ _class_name: 'DDIMScheduler' }))).toMatchObject({
    betaStart: 0.0001,
    betaEnd: 0.02,
  });
});

it.each<[string, Record<string, unknown>, RegExp]>([
  [
    'flow matching',
    { _class_name: 'FlowMatchEulerDiscreteScheduler', shift: 3 },
    /expected beta_start, beta_end, beta_schedule of a FlowMatchEulerDiscreteScheduler, got none/,
  ],
  ['no class and no betas', {}, /of a scheduler without _class_name/],
  ['a class that is no text', { _class_name: { a: 1 } }, /of a scheduler without _class_name/],
  ['flow sigmas', { ...deis, use_flow_sigmas: true }, /use_flow_sigmas: set, but not supported/],
  ['a curve that nobody knows', { ...deis, beta_schedule: 'sigmoid' }, /beta_schedule/],
  ['another prediction', { ...deis, prediction_type: 'flow_prediction' }, /prediction_type/],
])('a base with %s is refused by all commands alike', (_, config, message) => {
  expect(() => checkpointSchedule(of(config))).toThrow(message);
  expect(() => checkpointSchedule(of(config))).toThrow(FormatError);
  expect(() => checkpointSampler(of(config), 'euler')).toThrow(message);
});
