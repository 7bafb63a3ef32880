/** What a single file's signs say of its noise, and who hears it. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CheckpointOptions, openCheckpoint } from '../../src/models/checkpoint.ts';
import { checkpointSampler, checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { goldenPath } from '../support/goldens.ts';
import { type SingleFileChanges, writeSingleFile } from '../support/single-files.ts';

const scratch = scratchFolder();
const configFolder = goldenPath('goldens/tiny-random/model');
const sibling = readFileSync(
  path.join(import.meta.dirname, '../../fixtures/cases/training/options/vpred_sibling.yaml'),
  'utf8',
);
let count = 0;

interface Signs extends SingleFileChanges {
  /** Files beside it, by their ends. */
  readonly beside?: Readonly<Record<string, string>>;
}

async function opened({ beside = {}, ...changes }: Signs, options: CheckpointOptions = {}) {
  const stem = scratch(String(count++), 'base.v1');
  await writeSingleFile(`${stem}.safetensors`, changes);
  for (const [end, text] of Object.entries(beside)) writeFileSync(stem + end, text);
  return openCheckpoint(`${stem}.safetensors`, { configFolder, ...options });
}

const params = (text: string): string => `model:\n  params:\n    ${text}\n`;
const scaling = (name: string): string =>
  params(
    `denoiser_config: { params: { scaling_config: { target: sgm.modules.diffusionmodules.denoiser_scaling.${name} } } }`,
  );

describe('a single file', () => {
  it.each<[string, Signs, string]>([
    ['without a sign', {}, 'epsilon'],
    ['with the key v_pred', { keys: ['v_pred'] }, 'v_prediction'],
    [
      'with the key of a training checkpoint',
      { rename: (name) => `state_dict.${name}`, keys: ['state_dict.v_pred'] },
      'v_prediction',
    ],
    ['with the key ztsnr', { keys: ['ztsnr'] }, 'v_prediction'],
    ['with ModelSpec’s field', { metadata: { 'modelspec.prediction_type': 'v' } }, 'v_prediction'],
    ['with a .yaml beside it', { beside: { '.yaml': sibling } }, 'v_prediction'],
    ['with a .yml beside it', { beside: { '.yml': sibling } }, 'v_prediction'],
    ['with the class of generative-models', { beside: { '.yaml': scaling('VScaling') } }, 'v_prediction'],
    ['with its other class', { beside: { '.yaml': scaling('EpsScaling') } }, 'epsilon'],
    ['with another file’s .yaml', { beside: { 'b.yaml': sibling } }, 'epsilon'],
    ['with a .yaml of something else', { beside: { '.yaml': 'prompt: a cat' } }, 'epsilon'],
    [
      'with a .yaml that does not say it',
      { beside: { '.yaml': params('linear_start: 0.00085') } },
      'epsilon',
    ],
  ])('%s', async (_, signs, prediction) => {
    const base = await opened(signs);
    // What training and features go by, and what is drawn by.
    expect(checkpointSchedule(base).predictionType).toBe(prediction);
    expect(checkpointSampler(base, 'euler').predictionType).toBe(prediction);
    expect(checkpointSchedule(base).rescaleBetasZeroSnr).toBe(signs.keys?.includes('ztsnr') === true);
  });

  it('has the betas of its .yaml', async () => {
    const text = params(
      '{ linear_start: 0.001, linear_end: 0.02, timesteps: 500, beta_schedule: sqrt_linear }',
    );
    expect(checkpointSchedule(await opened({ beside: { '.yaml': text } }))).toMatchObject({
      betaStart: 0.001,
      betaEnd: 0.02,
      numTrainTimesteps: 500,
      betaSchedule: 'linear',
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
    await expect(opened(signs)).rejects.toThrow(message);
    const base = await opened(signs, { prediction: 'v_prediction' });
    expect(checkpointSchedule(base).predictionType).toBe('v_prediction');
    expect(base.schedule.chosenPrediction).toBe('v_prediction');
  });

  it.each<[string, RegExp]>([
    [params('beta_schedule: sqrt'), /beta_schedule: expected linear, sqrt_linear, cosine, got "sqrt"/],
    [params('linear_start: fast'), /base\.v1\.yaml: model\.params\.linear_start/],
    ['model: {', /base\.v1\.yaml:1: neither JSON nor YAML/],
  ])('with the .yaml %j is refused', async (text, message) => {
    await expect(opened({ beside: { '.yaml': text } })).rejects.toThrow(message);
  });
});

it('what the user says holds for a folder as well', async () => {
  const base = await openCheckpoint(configFolder, { prediction: 'v_prediction' });
  expect(checkpointSchedule(base).predictionType).toBe('v_prediction');
  expect(checkpointSampler(base, 'ddim').predictionType).toBe('v_prediction');
});
