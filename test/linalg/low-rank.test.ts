import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError, UsageError } from '../../src/errors.ts';
import {
  applyToRows,
  applyToVector,
  featureNormSquared,
  frobeniusNorm,
  innerProduct,
  type LowRank,
  lowRank,
  rankOf,
  scale,
  subtract,
  sum,
  toDense,
  truncate,
  zeroDelta,
} from '../../src/linalg/low-rank.ts';
import { type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { svd } from '../../src/linalg/svd.ts';
import { naiveProduct, randomMatrix } from '../support/matrices.ts';

const seed = fc.integer({ min: 0, max: 2 ** 31 });
const side = fc.integer({ min: 1, max: 20 });
const rank = fc.integer({ min: 0, max: 8 });
const runs = { numRuns: 40, seed: 1 };
const close = { rtol: 1e-11, atol: 1e-13 };

function randomDelta(s: number, m: number, n: number, r: number): LowRank {
  return lowRank(randomMatrix(s, m, r), randomMatrix(s + 7, r, n));
}

function norm(a: Matrix): number {
  return Math.hypot(...a.data);
}

describe('LowRank against dense matrices', () => {
  it('scale, sum, subtract, apply', () => {
    fc.assert(
      fc.property(side, side, rank, rank, seed, (m, n, r, q, s) => {
        const a = randomDelta(s, m, n, r);
        const b = randomDelta(s + 1, m, n, q);
        const [denseA, denseB] = [toDense(a).data, toDense(b).data];
        expect(toDense(scale(a, -2.5)).data).toBeAllClose(
          denseA.map((value) => -2.5 * value),
          close,
        );
        const total = sum([a, b, a]);
        expect(rankOf(total)).toBe(2 * r + q);
        expect(toDense(total).data).toBeAllClose(
          denseA.map((value, i) => 2 * value + denseB[i]!),
          close,
        );
        expect(toDense(subtract(a, b)).data).toBeAllClose(
          denseA.map((value, i) => value - denseB[i]!),
          close,
        );
        const x = randomMatrix(s + 2, 3, n);
        expect(applyToRows(a, x).data).toBeAllClose(naiveProduct(x, transpose(toDense(a))).data, close);
        expect(applyToVector(a, x.data.slice(0, n))).toBeAllClose(applyToRows(a, x).data.slice(0, m), close);
      }),
      runs,
    );
  });

  it('norms and inner products', () => {
    fc.assert(
      fc.property(side, side, rank, rank, seed, (m, n, r, q, s) => {
        const a = randomDelta(s, m, n, r);
        const b = randomDelta(s + 1, m, n, q);
        const [denseA, denseB] = [toDense(a), toDense(b)];
        expect(frobeniusNorm(a)).toBeCloseTo(norm(denseA), 8);
        const expected = denseA.data.reduce((total, value, i) => total + value * denseB.data[i]!, 0);
        expect(innerProduct(a, b)).toBeCloseTo(expected, 7);
        const x = randomMatrix(s + 2, 5, n);
        const gram = naiveProduct(transpose(x), x);
        expect([featureNormSquared(a, gram)]).toBeAllClose([norm(applyToRows(a, x)) ** 2], {
          rtol: 1e-10,
          atol: 1e-12,
        });
      }),
      runs,
    );
  });

  it('a difference that cancels has a norm of rounding size, not of its square root', () => {
    const a = randomDelta(1, 30, 20, 4);
    expect(frobeniusNorm(subtract(a, a)) / frobeniusNorm(a)).toBeLessThan(1e-14);
  });
});

describe('truncate', () => {
  it('leaves out exactly the smallest singular values', () => {
    fc.assert(
      fc.property(side, side, rank, rank, seed, (m, n, r, k, s) => {
        const delta = randomDelta(s, m, n, r);
        const dense = toDense(delta);
        const cut = truncate(delta, k);
        expect(rankOf(cut.delta)).toBe(Math.min(k, m, n, r));
        const reference = svd(dense).singularValues;
        expect(cut.singularValues).toBeAllClose(reference.slice(0, cut.singularValues.length), close);
        const kept = toDense(cut.delta).data;
        const error = Math.hypot(...dense.data.map((value, i) => value - kept[i]!));
        const lost = Math.hypot(...reference.slice(k));
        expect(error).toBeCloseTo(lost, 9);
        if (norm(dense) > 0) expect(cut.relativeError).toBeCloseTo(lost / norm(dense), 9);
      }),
      runs,
    );
  });

  it('keeps a zero delta zero and refuses nonsense', () => {
    expect(truncate(zeroDelta(3, 4), 2).relativeError).toBe(0);
    expect(truncate(scale(randomDelta(1, 3, 4, 2), 0), 1).relativeError).toBe(0);
    expect(() => truncate(randomDelta(1, 3, 4, 2), 1.5)).toThrow(UsageError);
    expect(() => truncate(scale(randomDelta(1, 3, 4, 2), Number.NaN), 1)).toThrow(NumericalError);
  });
});

it('refuses factors and deltas that do not fit', () => {
  expect(() => lowRank(matrix(3, 2), matrix(3, 4))).toThrow(ShapeError);
  expect(() => sum([])).toThrow(ShapeError);
  expect(() => sum([zeroDelta(3, 4), zeroDelta(4, 3)])).toThrow(ShapeError);
  expect(() => innerProduct(zeroDelta(3, 4), zeroDelta(3, 5))).toThrow(ShapeError);
});
