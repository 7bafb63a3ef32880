import { describe, expect, it } from 'vitest';
import { ShapeError, UsageError } from '../../../src/errors.ts';
import { average, weightedSum } from '../../../src/fusion/solvers/weighted-sum.ts';
import { frobeniusNorm, rankOf, toDense } from '../../../src/linalg/low-rank.ts';
import { randomProblem } from '../../support/fusion-problems.ts';

const { layer, base, concepts } = randomProblem({
  seed: 3,
  m: 5,
  n: 6,
  ranks: [2, null, 3],
  rows: 4,
  ridge: 0,
  preserve: null,
});

/** Σ w_i (W_i − W₀), number by number. */
function dense(weights: readonly number[]): Float64Array {
  return base.data.map((w0, i) =>
    concepts.reduce((total, { weight }, c) => total + weights[c]! * (weight.data[i]! - w0), 0),
  );
}

describe('weight-space baselines', () => {
  it('sum adds deltas with their strengths, exactly', () => {
    const strengths = [0.7, 5, -0.3];
    expect(toDense(weightedSum(layer, strengths)).data).toBeAllClose(dense(strengths), { rtol: 1e-12 });
    expect(toDense(weightedSum(layer, null)).data).toBeAllClose(dense([1, 1, 1]), { rtol: 1e-12 });
    expect(rankOf(weightedSum(layer, null))).toBe(5);
  });

  it('average is the mean of the weights, concepts that do not train the layer counting as the base', () => {
    expect(toDense(average(layer, null)).data).toBeAllClose(dense([1 / 3, 1 / 3, 1 / 3]), { rtol: 1e-12 });
    expect(toDense(average(layer, [0.5, 0.3, 0.2])).data).toBeAllClose(dense([0.5, 0.3, 0.2]), {
      rtol: 1e-12,
    });
  });

  it('strength 0 and untrained layers change nothing', () => {
    expect(frobeniusNorm(weightedSum(layer, [0, 0, 0]))).toBe(0);
    expect(rankOf(average({ ...layer, deltas: [null, null, null] }, null))).toBe(0);
  });

  it('refuses weights that are no average, of another number, or not finite', () => {
    expect(() => average(layer, [1, 1, 1])).toThrow(UsageError);
    expect(() => average(layer, [1, 1, 1])).toThrow(/add up to 1, got 1 \+ 1 \+ 1 = 3; .*method sum/);
    expect(() => average(layer, [1.5, -0.5, 0])).toThrow(UsageError);
    expect(() => average(layer, [Number.NaN, 0, 1])).toThrow(UsageError);
    expect(() => weightedSum(layer, [1, 1])).toThrow(ShapeError);
    expect(() => weightedSum(layer, [1, Number.POSITIVE_INFINITY, 1])).toThrow(/concept 2/);
  });
});
