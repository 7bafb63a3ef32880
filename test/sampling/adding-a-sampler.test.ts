/** A sampler is one file and one entry of the table: a made-up one draws, without a change anywhere else. */
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { checkpointSampler } from '../../src/sampling/checkpoint-schedule.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { createSampler, SAMPLER_NAMES, samplerDisplayName } from '../../src/sampling/samplers/create.ts';
import { euler } from '../../src/sampling/samplers/euler.ts';
import type { SchedulerEntry } from '../../src/sampling/samplers/table.ts';
import { isSchedulerClass, resolveSchedulerConfig } from '../../src/sampling/scheduler-config.ts';
import { goldenPath } from '../support/goldens.ts';

const calls = vi.hoisted(() => ({ steps: [] as number[] }));

vi.mock('../../src/sampling/samplers/table.ts', async (importOriginal) => {
  const table = await importOriginal<typeof import('../../src/sampling/samplers/table.ts')>();
  const entry: SchedulerEntry = {
    // Euler's method that takes half of every step.
    create: (config, steps) => {
      calls.steps.push(steps);
      const whole = euler(config, steps);
      return {
        ...whole,
        begin: (...start) => {
          const step = whole.begin(...start);
          return (output, index, latents, draw) => {
            const update = step(output, index, latents, draw);
            return { ...update, latents: update.latents.map((x, i) => (x + latents[i]!) / 2) };
          };
        },
      };
    },
    names: { half: { display: 'Half Euler', config: { timestep_spacing: 'trailing' } } },
    walks: 'sigmas',
    defaults: { betaEnd: 0.015 },
    options: ['use_karras_sigmas'],
  };
  return { ...table, SCHEDULERS: { ...table.SCHEDULERS, HalfEulerScheduler: entry } };
});

const model = goldenPath('goldens/tiny-random/model');
let pipeline: Pipeline;
beforeAll(async () => {
  pipeline = await Pipeline.create(await openCheckpoint(model));
});
afterAll(() => pipeline.dispose());

describe('a sampler of the table', () => {
  it('has its names everywhere', () => {
    expect(SAMPLER_NAMES).toContain('half');
    expect(samplerDisplayName('half')).toBe('Half Euler');
    expect(isSchedulerClass('HalfEulerScheduler')).toBe(true);
  });

  it('is read from a config, with its own defaults and options', () => {
    const config = resolveSchedulerConfig(
      { _class_name: 'HalfEulerScheduler', use_karras_sigmas: true },
      'made up',
    );
    expect(config).toMatchObject({ betaEnd: 0.015, betaStart: 0.0001, useKarrasSigmas: true });
    expect(createSampler(config, 4).timesteps).toHaveLength(4);
    expect(() =>
      resolveSchedulerConfig({ _class_name: 'HalfEulerScheduler', rescale_betas_zero_snr: true }, 'made up'),
    ).toThrow('rescale_betas_zero_snr');
  });

  it('takes what its name stands for over the model’s file', async () => {
    expect(await checkpointSampler(await openCheckpoint(model), 'half')).toMatchObject({
      schedulerClass: 'HalfEulerScheduler',
      timestepSpacing: 'trailing',
    });
  });

  it('draws', async () => {
    const request = { prompt: 'a cat', width: 64, height: 64, steps: 3, seed: 1 };
    calls.steps.length = 0;
    const [half] = await pipeline.sample({ ...request, sampler: 'half' });
    expect(calls.steps).toContain(3);
    const [whole] = await pipeline.sample({ ...request, sampler: 'euler' });
    expect(half!.latents.data.every(Number.isFinite)).toBe(true);
    expect(half!.latents.data).not.toEqual(whole!.latents.data);
  });
});
