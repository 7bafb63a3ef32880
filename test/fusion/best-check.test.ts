/** Which step counts, and when a descent has done enough. */
import { expect, it } from 'vitest';
import { BestCheck } from '../../src/fusion/best-check.ts';

it('keeps the best, and has enough after two that are no better', () => {
  const best = new BestCheck();
  const errors = [3, 2, 2.5, 1, 1, 1.5];
  const seen = errors.map((error, i) => [best.add({ step: 5 * i, error }), best.isEnough]);
  expect(seen).toEqual([
    [true, false],
    [true, false],
    [false, false],
    [true, false],
    [false, false],
    [false, true],
  ]);
  expect(best.checks.map(({ step }) => step)).toEqual([0, 5, 10, 15, 20, 25]);
});

it('has enough where nothing beats the start', () => {
  const best = new BestCheck();
  expect([1, Number.NaN, 2].map((error, step) => best.add({ step, error }))).toEqual([true, false, false]);
  expect(best.isEnough).toBe(true);
});
