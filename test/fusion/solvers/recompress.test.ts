import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, UsageError } from '../../../src/errors.ts';
import { leastSquares } from '../../../src/fusion/solvers/least-squares.ts';
import { rankBySpectrumShare, recompress } from '../../../src/fusion/solvers/recompress.ts';
import {
  applyToRows,
  featureNormSquared,
  frobeniusNorm,
  type LowRank,
  lowRank,
  rankOf,
  scale,
  subtract,
  toDense,
  truncate,
  zeroDelta,
} from '../../../src/linalg/low-rank.ts';
import { type Matrix, matrix, stackRows, transpose } from '../../../src/linalg/matrix.ts';
import { svd } from '../../../src/linalg/svd.ts';
import { gramOf, randomProblem } from '../../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../../support/matrices.ts';

/** Features of very unequal directions, as real ones are. */
function features(seed: number, rows: number, n: number): Matrix {
  const x = randomMatrix(seed, rows, n);
  for (let i = 0; i < x.data.length; i++) x.data[i]! *= 10 ** (-3 * ((i % n) / n));
  return x;
}

const randomDelta = (seed: number, m: number, n: number, r: number): LowRank =>
  lowRank(randomMatrix(seed, m, r), randomMatrix(seed + 1, r, n));

/** The smallest possible ‖X (ΔW − ΔW_k)ᵀ‖: singular values of the answers X ΔWᵀ beyond k, all written out. */
function leastError(delta: LowRank, x: Matrix, k: number): number {
  const answers = naiveProduct(x, transpose(toDense(delta)));
  return Math.hypot(...svd(answers).singularValues.subarray(k));
}

describe('recompression', () => {
  it('reaches the least possible error on the features, and reports it', () => {
    fc.assert(
      fc.property(
        fc.record({
          seed: fc.integer({ min: 0, max: 2 ** 30 }),
          m: fc.integer({ min: 1, max: 10 }),
          n: fc.integer({ min: 1, max: 10 }),
          r: fc.integer({ min: 1, max: 8 }),
          rows: fc.integer({ min: 1, max: 20 }),
          k: fc.integer({ min: 0, max: 8 }),
        }),
        ({ seed, m, n, r, rows, k }) => {
          const delta = randomDelta(seed, m, n, r);
          const x = features(seed + 5, rows, n);
          const { delta: cut, rank, featureError, plainError } = recompress(delta, [gramOf(x)], k);
          expect(rank).toBe(Math.min(k, r, m));
          expect(rankOf(cut)).toBe(rank);
          const whole = Math.sqrt(featureNormSquared(delta, { features: x }));
          const lost = subtract(delta, cut);
          const error = Math.hypot(...applyToRows(lost, x).data);
          expect([error]).toBeAllClose([leastError(delta, x, k)], { atol: 1e-6 * whole, rtol: 0 });
          expect([featureError * whole]).toBeAllClose([error], { atol: 1e-6 * whole, rtol: 0 });
          expect([plainError * frobeniusNorm(delta)]).toBeAllClose([frobeniusNorm(lost)], {
            atol: 1e-9 * frobeniusNorm(delta),
            rtol: 0,
          });
        },
      ),
      { numRuns: 80, seed: 1 },
    );
  });

  it('beats plain truncation on the features, which beats it in the plain norm', () => {
    const delta = randomDelta(2, 9, 10, 6);
    const x = features(3, 40, 10);
    const weighted = recompress(delta, [gramOf(x)], 3);
    const plain = truncate(delta, 3);
    const error = (cut: LowRank) => featureNormSquared(subtract(delta, cut), { features: x });
    expect(error(weighted.delta)).toBeLessThan(0.9 * error(plain.delta));
    expect(weighted.plainError).toBeGreaterThan(plain.relativeError);
  });

  it('auto keeps the stated share with the fewest factors', () => {
    const delta = randomDelta(7, 12, 12, 8);
    const grams = [gramOf(features(8, 30, 12)), { features: features(9, 4, 12) }];
    const x = stackRows(12, [features(8, 30, 12), features(9, 4, 12)]);
    const whole = featureNormSquared(delta, { features: x });
    for (const share of [0.5, 0.9, 0.99, 0.9999]) {
      const { delta: cut, rank, featureError, energyShares } = recompress(delta, grams, 'auto', share);
      const left = featureNormSquared(subtract(delta, cut), { features: x }) / whole;
      expect(left).toBeLessThanOrEqual(1 - share + 1e-12);
      expect(featureError ** 2).toBeCloseTo(left, 9);
      expect(leastError(delta, x, rank - 1) ** 2 / whole).toBeGreaterThan(1 - share);
      expect(energyShares.reduce((sum, value) => sum + value, 0)).toBeCloseTo(1, 12);
    }
    const all = recompress(delta, grams, 'auto', 1);
    expect(toDense(all.delta).data).toBeAllClose(toDense(delta).data, { rtol: 1e-10 });
  });

  it('is exact at the delta’s own rank, whatever the features, and auto stops where nothing is seen', () => {
    const delta = randomDelta(4, 9, 10, 5);
    const few = gramOf(features(3, 2, 10));
    const { delta: same, plainError } = recompress(delta, [few], 7);
    expect(toDense(same).data).toBeAllClose(toDense(delta).data, { rtol: 1e-12 });
    expect(plainError).toBe(0);
    // Two rows of features see two directions.
    expect(recompress(delta, [few], 'auto', 1).rank).toBe(2);
    const norms = (a: Matrix) =>
      Array.from({ length: a.rows }, (_, i) => Math.hypot(...a.data.subarray(i * a.cols, (i + 1) * a.cols)));
    expect(norms(transpose(same.up))).toBeAllClose(norms(same.down), { rtol: 1e-12 });
  });

  it('never adds to what the change does to other features', () => {
    const { layer, preservedFeatures } = randomProblem({
      seed: 21,
      m: 8,
      n: 9,
      ranks: [3, 3],
      rows: 30,
      ridge: 1e-3,
      preserve: { weight: 5, rows: 7 },
    });
    const fused = leastSquares(layer);
    for (let k = 0; k <= 6; k++) {
      const { delta } = recompress(fused, layer.input.grams, k);
      const effect = (each: LowRank) => featureNormSquared(each, { features: preservedFeatures! });
      expect(effect(delta)).toBeLessThanOrEqual(effect(fused) * (1 + 1e-12));
    }
  });

  it('falls back to size where no feature sees the change', () => {
    const delta = randomDelta(4, 9, 10, 5);
    const blind = recompress(delta, [matrix(10, 10)], 2);
    expect(blind.featureError).toBe(0);
    expect(blind.plainError).toBeCloseTo(truncate(delta, 2).relativeError, 9);
    expect(recompress(delta, [matrix(10, 10)], 'auto').rank).toBe(0);
    expect(recompress(zeroDelta(9, 10), [matrix(10, 10)], 4)).toMatchObject({ rank: 0, plainError: 0 });
  });

  it('refuses ranks, shares and numbers that are none', () => {
    const delta = randomDelta(4, 9, 10, 5);
    const gram = gramOf(features(3, 20, 10));
    expect(() => recompress(delta, [gram], -1)).toThrow(UsageError);
    expect(() => recompress(delta, [gram], 1.5)).toThrow(/rank: expected auto/);
    expect(() => recompress(delta, [gram], 'auto', 0)).toThrow(/energy share/);
    expect(() => recompress(delta, [], 2)).toThrow(UsageError);
    expect(() => recompress(scale(delta, Number.NaN), [gram], 2)).toThrow(NumericalError);
    expect(() => rankBySpectrumShare(Float64Array.of(1), 1.2)).toThrow(UsageError);
  });
});

describe('share of the spectrum', () => {
  it('stops before the value that crosses the line', () => {
    const values = Float64Array.of(5, 3, 2);
    expect([0.4, 0.5, 0.79, 0.81, 1].map((share) => rankBySpectrumShare(values, share))).toEqual([
      0, 1, 1, 2, 3,
    ]);
  });
});
