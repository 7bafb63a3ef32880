import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase } from '../../src/package-root.ts';
import { checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../../src/sampling/noise-schedule.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { weightedBySnr } from '../../src/training/loss-weights.ts';
import { drawTimesteps } from '../../src/training/timesteps.ts';

describe('stratified timesteps', () => {
  it('are one from each equal part of the range, in any order', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.bigInt({ min: 0n, max: 2n ** 32n }), (rows, seed) => {
        const drawn = drawTimesteps('stratified', rows, 1000, new TorchGenerator(seed));
        // A part's border may lie within a timestep: that one belongs to both.
        drawn
          .toSorted((a, b) => a - b)
          .forEach((timestep, part) => {
            expect(timestep).toBeGreaterThanOrEqual(Math.floor((part / rows) * 1000));
            expect(timestep).toBeLessThan(((part + 1) / rows) * 1000);
          });
        expect(drawn).toHaveLength(rows);
      }),
    );
  });

  it('are each as likely as any other, as uniform ones are', () => {
    for (const how of ['stratified', 'uniform'] as const) {
      const random = new TorchGenerator(3n);
      const counts = new Array<number>(10).fill(0);
      for (let i = 0; i < 2000; i++) {
        // The first row alone: the others are not independent of it.
        counts[Math.floor(drawTimesteps(how, 4, 1000, random)[0]! / 100)]!++;
      }
      // Five deviations of a binomial.
      for (const count of counts) expect(Math.abs(count - 200), how).toBeLessThan(70);
    }
  });
});

const schedule = noiseSchedule(await checkpointSchedule(await openCheckpoint(defaultBase())));

describe('Min-SNR weights', () => {
  const weights = Float32Array.of(1, 1, 2, 2, 3, 3);
  const timesteps = [20, 500, 950];

  it('cap the loss in the picture’s own terms', () => {
    const snr = timesteps.map((t) => schedule.alphasCumprod[t]! / (1 - schedule.alphasCumprod[t]!));
    expect(snr[0]).toBeGreaterThan(5);
    expect(snr[2]).toBeLessThan(1);
    const scaled = weightedBySnr(weights, timesteps, schedule, 'epsilon', 5);
    expect(scaled[0]).toBeCloseTo(5 / snr[0]!, 6);
    expect([...scaled.slice(2)]).toEqual([2, 2, 3, 3]);
    const velocity = weightedBySnr(weights, timesteps, schedule, 'v_prediction', 5);
    expect(velocity[5]).toBeCloseTo((3 * snr[2]!) / (snr[2]! + 1), 6);
  });

  it('make both predictions the same loss of the picture', () => {
    // An error in the noise and the error in v that is the same error in the picture weigh alike.
    for (const timestep of timesteps) {
      const alpha = schedule.alphasCumprod[timestep]!;
      const loss = (prediction: 'epsilon' | 'v_prediction', error: number): number =>
        weightedBySnr(Float32Array.of(1), [timestep], schedule, prediction, 5)[0]! * error ** 2;
      const inPicture = 0.1;
      const inNoise = (inPicture * Math.sqrt(alpha)) / Math.sqrt(1 - alpha);
      const inVelocity = inPicture / Math.sqrt(1 - alpha);
      expect(loss('epsilon', inNoise)).toBeCloseTo(loss('v_prediction', inVelocity), 7);
    }
  });

  it('are left alone by 0, and 1 where a schedule ends in pure noise', () => {
    expect(weightedBySnr(weights, timesteps, schedule, 'epsilon', 0)).toBe(weights);
    const ending = { ...schedule, alphasCumprod: Float32Array.of(0) };
    expect([...weightedBySnr(Float32Array.of(2), [0], ending, 'epsilon', 5)]).toEqual([2]);
  });
});
