/** Few eigenvectors against all of them by the plain loops of eigh. */
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { NumericalError, ShapeError } from '../../src/errors.ts';
import { eigh } from '../../src/linalg/eigh.ts';
import { leadingEigenSteps } from '../../src/linalg/leading-eigen.ts';
import { identity, type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { multiply, multiplyTransposed } from '../../src/linalg/products.ts';
import { tridiagonaliseSteps } from '../../src/linalg/tridiagonal.ts';
import { inOneGo } from '../../src/pace.ts';
import { randomMatrix } from '../support/matrices.ts';

/** How often the plain way was taken by the code under test. */
const whole = vi.hoisted(() => ({ runs: 0 }));
vi.mock('../../src/linalg/eigh.ts', async (original) => {
  const real = await original<typeof import('../../src/linalg/eigh.ts')>();
  const eighSteps: typeof real.eighSteps = (a) => {
    whole.runs++;
    return real.eighSteps(a);
  };
  return { ...real, eighSteps };
});

const largestOf = (data: Float64Array): number => data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

/** Values are eigh's, vectors orthonormal and A's own, to rounding. */
function check(a: Matrix, count: number): void {
  const n = a.rows;
  const given = Float64Array.from(a.data);
  const { values, vectors } = inOneGo(leadingEigenSteps(a));
  const exact = eigh(a).values.reverse();
  const scale = largestOf(exact) || 1;
  expect(values).toBeAllClose(exact, { rtol: 0, atol: 1e-13 * scale });
  const rows = inOneGo(vectors(count));
  expect([rows.rows, rows.cols]).toEqual([count, n]);
  expect(multiplyTransposed(rows, rows).data).toBeAllClose(identity(count).data, { rtol: 0, atol: 1e-13 });
  const images = multiply(rows, a);
  const expected = rows.data.map((x, i) => x * values[Math.floor(i / n)]!);
  expect(images.data).toBeAllClose(expected, { rtol: 0, atol: 2e-13 * scale });
  expect(a.data).toEqual(given);
}

describe('leading eigenvectors', () => {
  it('are those of symmetric matrices, for few of them and for all', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.nat(), fc.nat(1 << 20), (n, k, seed) => {
        const x = randomMatrix(seed, n, n);
        const symmetric = x.data.map((value, i) => value + x.data[(i % n) * n + Math.floor(i / n)]!);
        check(matrix(n, n, symmetric), k % (n + 1));
      }),
      { numRuns: 60 },
    );
  });

  it('come by inverse iteration where fewer than half are asked for', () => {
    const x = randomMatrix(8, 64, 90);
    whole.runs = 0;
    for (const count of [1, 16, 31]) check(multiplyTransposed(x, x), count);
    expect(whole.runs).toBe(0);
    check(multiplyTransposed(x, x), 32);
    expect(whole.runs).toBe(1);
  });

  it('are those of Gram matrices of few rows, whose last values are zero', () => {
    for (const [n, rank] of [
      [40, 3],
      [41, 19],
      [30, 1],
    ] as const) {
      const x = randomMatrix(n, n, rank);
      for (const count of [1, rank, Math.min(rank + 4, 14)]) check(multiplyTransposed(x, x), count);
    }
  });

  it('are orthogonal where values repeat or nearly do', () => {
    check(identity(20), 7);
    check(matrix(12, 12), 5);
    const twice = matrix(24, 24);
    const part = multiplyTransposed(randomMatrix(1, 12, 12), randomMatrix(1, 12, 12));
    for (let i = 0; i < 12; i++) {
      for (let j = 0; j < 12; j++) {
        twice.data[i * 24 + j] = part.data[i * 12 + j]!;
        twice.data[(i + 12) * 24 + j + 12] = part.data[i * 12 + j]!;
      }
    }
    check(twice, 9);
    // Wilkinson's W21+: pairs that agree to fourteen digits.
    const wilkinson = matrix(21, 21);
    for (let i = 0; i < 21; i++) {
      wilkinson.data[i * 21 + i] = Math.abs(i - 10);
      if (i > 0) wilkinson.data[i * 21 + i - 1] = wilkinson.data[(i - 1) * 21 + i] = 1;
    }
    check(wilkinson, 8);
  });

  it('survive numbers whose squares overflow or vanish', () => {
    for (const factor of [1e200, 1e-200]) {
      const x = randomMatrix(3, 25, 25);
      const gram = multiplyTransposed(x, x);
      check(
        matrix(
          25,
          25,
          gram.data.map((value) => value * factor),
        ),
        6,
      );
    }
  });

  it('refuse what is not square or not finite', () => {
    expect(() => inOneGo(leadingEigenSteps(matrix(2, 3)))).toThrow(ShapeError);
    expect(() => inOneGo(leadingEigenSteps(matrix(1, 1, Float64Array.of(Number.NaN))))).toThrow(
      NumericalError,
    );
  });
});

it('a reduction is Q T Qᵀ, read from the lower triangle alone', () => {
  for (const n of [1, 2, 3, 17, 24]) {
    const x = randomMatrix(n, n, n);
    const a = multiplyTransposed(x, x);
    const spoilt = a.data.map((value, i) => (i % n > Math.floor(i / n) ? Number.NaN : value));
    const { diagonal, offDiagonal, reflections, betas } = inOneGo(tridiagonaliseSteps(matrix(n, n, spoilt)));
    let q = identity(n);
    for (let k = 0; k < n; k++) {
      const v = matrix(1, n, reflections.slice(k * n, (k + 1) * n));
      const qv = multiplyTransposed(q, v);
      const taken = multiply(qv, v);
      q = matrix(
        n,
        n,
        q.data.map((value, i) => value - betas[k]! * taken.data[i]!),
      );
    }
    const t = matrix(n, n);
    for (let i = 0; i < n; i++) {
      t.data[i * n + i] = diagonal[i]!;
      if (i < n - 1) t.data[i * n + i + 1] = t.data[(i + 1) * n + i] = offDiagonal[i]!;
    }
    expect(multiplyTransposed(multiply(q, t), q).data).toBeAllClose(a.data, { rtol: 0, atol: 1e-12 * n });
  }
});
