/** What a single file's signs say of its noise, and who hears it. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { PredictionType, ScheduleKeys } from '../../src/models/model-schedule.ts';
import { singleFileSchedule } from '../../src/models/single-file-schedule.ts';
import { checkpointSampler, checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { goldenPath } from '../support/goldens.ts';
import { writeSingleFile } from '../support/single-files.ts';

const scratch = scratchFolder();
const configFolder = goldenPath('goldens/tiny-random/model');
const sibling = readFileSync(
  path.join(import.meta.dirname, '../../fixtures/cases/training/options/vpred_sibling.yaml'),
  'utf8',
);
let count = 0;

interface Signs {
  readonly keys?: readonly string[];
  readonly metadata?: Readonly<Record<string, string>>;
  /** Files beside it, by their ends. */
  readonly beside?: Readonly<Record<string, string>>;
}

/** What the signs of a file say; the file itself is not looked into. */
function signsOf(
  { keys = [], metadata = {}, beside = {} }: Signs,
  chosen?: PredictionType,
): Promise<ScheduleKeys> {
  const stem = scratch(String(count++), 'base.v1');
  mkdirSync(path.dirname(stem));
  for (const [end, text] of Object.entries(beside)) writeFileSync(stem + end, text);
  const file = { path: `${stem}.safetensors`, metadata: new Map(Object.entries(metadata)) };
  return singleFileSchedule(file, new Set(keys), chosen);
}

const params = (text: string): string => `model:\n  params:\n    ${text}\n`;
const scaling = (name: string): string =>
  params(
    `denoiser_config: { params: { scaling_config: { target: sgm.modules.diffusionmodules.denoiser_scaling.${name} } } }`,
  );

describe('a single file', () => {
  it.each<[string, Signs, string | undefined]>([
    ['without a sign', {}, undefined],
    ['with the key v_pred', { keys: ['v_pred'] }, 'v_prediction'],
    ['with the key ztsnr', { keys: ['ztsnr'] }, 'v_prediction'],
    ['with ModelSpec’s field', { metadata: { 'modelspec.prediction_type': 'v' } }, 'v_prediction'],
    ['with a .yaml beside it', { beside: { '.yaml': sibling } }, 'v_prediction'],
    ['with a .yml beside it', { beside: { '.yml': sibling } }, 'v_prediction'],
    ['with the class of generative-models', { beside: { '.yaml': scaling('VScaling') } }, 'v_prediction'],
    ['with its other class', { beside: { '.yaml': scaling('EpsScaling') } }, 'epsilon'],
    ['with another file’s .yaml', { beside: { 'b.yaml': sibling } }, undefined],
    ['with a .yaml of something else', { beside: { '.yaml': 'prompt: a cat' } }, undefined],
    [
      'with a .yaml that does not say it',
      { beside: { '.yaml': params('linear_start: 0.00085') } },
      undefined,
    ],
  ])('%s', async (_, signs, prediction) => {
    const { prediction_type: said, rescale_betas_zero_snr: rescaled } = await signsOf(signs);
    expect(said).toBe(prediction);
    expect(rescaled).toBe(signs.keys?.includes('ztsnr') === true ? true : undefined);
  });

  it('has the betas of its .yaml', async () => {
    const text = params(
      '{ linear_start: 0.001, linear_end: 0.02, timesteps: 500, beta_schedule: sqrt_linear }',
    );
    expect(await signsOf({ beside: { '.yaml': text } })).toEqual({
      beta_start: 0.001,
      beta_end: 0.02,
      num_train_timesteps: 500,
      beta_schedule: 'linear',
    });
  });

  it.each<[string, Signs, RegExp]>([
    [
      'signs that contradict each other',
      { keys: ['v_pred'], beside: { '.yaml': params('parameterization: eps') } },
      /base\.v1\.safetensors: expected one kind of prediction, got v_prediction by its key v_pred, epsilon by base\.v1\.yaml; say with `prediction` which/,
    ],
    [
      'a kind that is not drawn',
      { beside: { '.yaml': scaling('EDMScaling') } },
      /base\.v1\.yaml: expected epsilon, v or x0, got ".*EDMScaling"/,
    ],
    [
      'flow matching',
      { metadata: { 'modelspec.prediction_type': 'flow' } },
      /expected epsilon, v or x0, got "flow"/,
    ],
  ])('with %s is refused until the user decides', async (_, signs, message) => {
    await expect(signsOf(signs)).rejects.toThrow(message);
    await expect(signsOf(signs, 'v_prediction')).resolves.toBeDefined();
  });

  it.each<[string, RegExp]>([
    [params('beta_schedule: sqrt'), /beta_schedule: expected linear, sqrt_linear, cosine, got "sqrt"/],
    [params('linear_start: fast'), /base\.v1\.yaml: model\.params\.linear_start/],
    ['model: {', /base\.v1\.yaml:1: neither JSON nor YAML/],
  ])('with the .yaml %j is refused', async (text, message) => {
    await expect(signsOf({ beside: { '.yaml': text } })).rejects.toThrow(message);
  });

  it('tells training and samplers, before the configuration that is used with it', async () => {
    const changes = { rename: (name: string) => `state_dict.${name}`, keys: ['state_dict.ztsnr'] };
    const file = await writeSingleFile(scratch('whole', 'base.safetensors'), changes);
    const base = await openCheckpoint(file, { configFolder });
    expect(checkpointSchedule(base)).toMatchObject({
      predictionType: 'v_prediction',
      rescaleBetasZeroSnr: true,
    });
    expect(checkpointSampler(base, 'euler').predictionType).toBe('v_prediction');
    const said = await openCheckpoint(file, { configFolder, prediction: 'epsilon' });
    expect(checkpointSchedule(said).predictionType).toBe('epsilon');
    expect(said.schedule.chosenPrediction).toBe('epsilon');
  });
});

it('what the user says holds for a folder as well', async () => {
  const base = await openCheckpoint(configFolder, { prediction: 'v_prediction' });
  expect(checkpointSchedule(base).predictionType).toBe('v_prediction');
  expect(checkpointSampler(base, 'ddim').predictionType).toBe('v_prediction');
});
