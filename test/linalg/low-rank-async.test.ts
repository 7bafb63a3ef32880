/** Cutting with Gram matrices against the plain way by QR and SVD. */
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { frobeniusNorm, type LowRank, subtract, sum, truncate } from '../../src/linalg/low-rank.ts';
import { decomposeWith, truncateWith } from '../../src/linalg/low-rank-async.ts';
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';
import { randomMatrix } from '../support/matrices.ts';

/** Counts the products, so that a test knows which way was gone. */
function countingEngine() {
  let calls = 0;
  return {
    engine: async (a: Matrix, b: Matrix) => {
      calls++;
      return multiply(a, b);
    },
    calls: () => calls,
  };
}

const M = 300;
const N = 420;
const R = 64;
const delta = (seed: number, rank = R): LowRank => ({
  up: randomMatrix(seed, M, rank),
  down: randomMatrix(seed + 1, rank, N),
});
const distance = (a: LowRank, b: LowRank): number => frobeniusNorm(subtract(a, b)) / frobeniusNorm(a);

describe('truncateWith', () => {
  it.each([1, 8, 32, 63, 64, 100])('to rank %s is truncate', async (rank) => {
    const given = delta(3);
    const { engine, calls } = countingEngine();
    const fast = await truncateWith(given, rank, engine);
    const plain = truncate(given, rank);
    expect(calls()).toBeGreaterThan(4);
    expect(fast.delta.up.cols).toBe(Math.min(rank, R));
    expect(distance(plain.delta, fast.delta)).toBeLessThan(1e-11);
    expect(fast.relativeError).toBeCloseTo(plain.relativeError, 11);
    expect(fast.singularValues).toBeAllClose(plain.singularValues, { rtol: 1e-10 });
    // √s on each side: both factors have the same column norms.
    const columnNorm = (k: number) =>
      Math.hypot(...Array.from({ length: M }, (_, i) => fast.delta.up.data[i * fast.delta.up.cols + k]!));
    const rowNorm = (k: number) => Math.hypot(...fast.delta.down.data.subarray(k * N, (k + 1) * N));
    expect(columnNorm(0)).toBeCloseTo(rowNorm(0), 8);
  });

  it('takes dependent up factors, and goes the plain way for dependent down factors', async () => {
    const given = delta(5, 32);
    const same = { up: sum([given, given]).up, down: delta(9).down };
    const dependent = sum([given, given]);
    for (const [each, products] of [
      [same, true],
      [dependent, false],
    ] as const) {
      const { engine, calls } = countingEngine();
      const fast = await truncateWith(each, 16, engine);
      expect(distance(truncate(each, 16).delta, fast.delta)).toBeLessThan(1e-10);
      expect(calls() > 1).toBe(products);
    }
  });

  it('goes the plain way where squares would lose what is kept', async () => {
    const given = delta(7);
    // Singular values fall from 1 to 1e-9.
    for (let k = 0; k < R; k++) {
      for (let i = 0; i < M; i++) given.up.data[i * R + k]! *= 10 ** ((-9 * k) / R);
    }
    const { engine } = countingEngine();
    const plain = truncate(given, 60);
    const { delta: cut } = await truncateWith(given, 60, engine);
    expect(cut).toEqual(plain.delta);
  });

  it('computes small layers without the engine, and refuses what is no rank', async () => {
    const { engine, calls } = countingEngine();
    const small = { up: randomMatrix(1, 20, 4), down: randomMatrix(2, 4, 20) };
    expect((await decomposeWith(small, engine)).singularValues).toHaveLength(4);
    expect(calls()).toBe(0);
    await expect(truncateWith(delta(1), -1, engine)).rejects.toThrow(UsageError);
    expect((await truncateWith({ up: matrix(M, R), down: delta(1).down }, 3, engine)).relativeError).toBe(0);
  });
});
