/**
 * `expect(actual).toBeAllClose(expected, { rtol, atol })`: |a − e| ≤ atol + rtol · max|e| for every element.
 * A failure reports the largest difference, where it is, and both values.
 */
import { expect } from 'vitest';

type Numbers = ArrayLike<number>;

/** Largest |a − e| and its index; NaN counts as infinitely far. */
export function largestDifference(actual: Numbers, expected: Numbers): { value: number; index: number } {
  let value = 0;
  let index = -1;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference <= value)) {
      value = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
      index = i;
    }
  }
  return { value, index };
}

/** ‖a − e‖ / ‖e‖ (2-norm); the absolute norm if e is zero. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(error) / (norm > 0 ? Math.sqrt(norm) : 1);
}

expect.extend({
  toBeAllClose(actual: Numbers, expected: Numbers, { rtol = 1e-5, atol = 0 } = {}) {
    if (actual.length !== expected.length) {
      return { pass: false, message: () => `expected ${expected.length} numbers, got ${actual.length}` };
    }
    let scale = 0;
    for (let i = 0; i < expected.length; i++) scale = Math.max(scale, Math.abs(expected[i]!));
    const bound = atol + rtol * scale;
    const worst = largestDifference(actual, expected);
    return {
      pass: worst.value <= bound,
      message: () =>
        `largest difference ${worst.value.toExponential(3)} at ${worst.index}: got ${actual[worst.index]}, ` +
        `expected ${expected[worst.index]}; allowed ${bound.toExponential(3)} (largest expected value ${scale.toPrecision(4)})`,
    };
  },
});

declare module 'vitest' {
  interface Matchers<T> {
    toBeAllClose(expected: ArrayLike<number>, tolerance?: { rtol?: number; atol?: number }): T;
  }
}
