/** Identities of the factorisations: reconstruction, orthogonality, residual. Never raw vectors, whose signs are free. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError } from '../../src/errors.ts';
import { cholesky, conditionLowerBound, solveRows } from '../../src/linalg/cholesky.ts';
import { eigh } from '../../src/linalg/eigh.ts';
import { identity, type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { multiply, multiplyTransposed } from '../../src/linalg/products.ts';
import { qr } from '../../src/linalg/qr.ts';
import { svd } from '../../src/linalg/svd.ts';
import { randomMatrix, randomOfRank } from '../support/matrices.ts';

const seed = fc.integer({ min: 0, max: 2 ** 31 });
const runs = { numRuns: 30, seed: 1 };

/** X Xᵀ + ridge I. */
function positiveDefinite(s: number, n: number, ridge: number): Matrix {
  const x = randomMatrix(s, n, n);
  const a = multiplyTransposed(x, x);
  for (let i = 0; i < n; i++) a.data[i * n + i]! += ridge;
  return a;
}

function clone(a: Matrix): Matrix {
  return matrix(a.rows, a.cols, Float64Array.from(a.data));
}

function scaleRows(a: Matrix, factors: Float64Array): Matrix {
  return matrix(
    a.rows,
    a.cols,
    a.data.map((value, i) => value * factors[Math.floor(i / a.cols)]!),
  );
}

function expectOrthonormalColumns(q: Matrix): void {
  const t = transpose(q);
  expect(multiplyTransposed(t, t).data).toBeAllClose(identity(q.cols).data, { atol: 1e-12, rtol: 0 });
}

describe('cholesky', () => {
  it('reconstructs A from its lower triangle alone, across panel borders', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 150 }), seed, (n, s) => {
        const a = positiveDefinite(s, n, 1);
        const spoilt = clone(a);
        for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) spoilt.data[i * n + j] = Number.NaN;
        const { lower } = cholesky(spoilt);
        const l = matrix(n, n);
        for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) l.data[i * n + j] = lower[i * n + j]!;
        expect(multiplyTransposed(l, l).data).toBeAllClose(a.data, { rtol: 1e-13 });
      }),
      runs,
    );
  });

  it('solves rows: X A = B', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 150 }), fc.integer({ min: 0, max: 9 }), seed, (n, k, s) => {
        const a = positiveDefinite(s, n, 1);
        const b = randomMatrix(s + 1, k, n);
        const factor = cholesky(clone(a));
        expect(multiply(solveRows(factor, b), a).data).toBeAllClose(b.data, { rtol: 1e-9, atol: 1e-300 });
        expect(conditionLowerBound(factor)).toBeGreaterThanOrEqual(1);
      }),
      runs,
    );
  });

  it('factorises the widest attention input of SD 1.5', () => {
    const n = 1280;
    const a = matrix(n, n);
    // Tridiagonal plus a constant: known to be positive definite without a product of its own size.
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) a.data[i * n + j] = (i === j ? 4 : Math.abs(i - j) === 1 ? -1 : 0) + 0.01;
    }
    const b = randomMatrix(3, 2, n);
    const x = solveRows(cholesky(clone(a)), b);
    expect(multiplyTransposed(x, a).data).toBeAllClose(b.data, { rtol: 1e-12 });
  });

  it('names the pivot of a matrix that is not positive definite', () => {
    const a = identity(100);
    a.data[70 * 100 + 70] = -2;
    expect(() => cholesky(a)).toThrow(/not positive definite at pivot 70/);
    const singular = randomOfRank(1, 90, 90, 5);
    expect(() => cholesky(multiplyTransposed(singular, singular))).toThrow(NumericalError);
    const nan = identity(80);
    nan.data[75 * 80 + 3] = Number.NaN;
    expect(() => cholesky(nan)).toThrow(/pivot 75/);
    expect(() => cholesky(matrix(2, 3))).toThrow(ShapeError);
    expect(() => solveRows(cholesky(identity(3)), matrix(1, 4))).toThrow(ShapeError);
  });

  it.each([2, 9, 70])(
    'of size %i takes a pivot for zero at size · 2⁻⁵² of its own entry, and not above',
    (n) => {
      // The last two rows are [1, 1] and [1, 1 + δ]: what is left of the last entry is δ.
      const nearlySingular = (steps: number): Matrix => {
        const a = identity(n);
        a.data[(n - 1) * n + n - 2] = 1;
        a.data[(n - 2) * n + n - 1] = 1;
        a.data[n * n - 1] = 1 + steps * 2 ** -52;
        return a;
      };
      expect(() => cholesky(nearlySingular(n))).toThrow(`not positive definite at pivot ${n - 1}`);
      expect(() => cholesky(nearlySingular(n + 1))).not.toThrow();
    },
  );

  it('bounds the condition by the square of the ratio of its diagonal, 1 where there is none', () => {
    const a = matrix(3, 3, Float64Array.of(4, 0, 0, 0, 1, 0, 0, 0, 9));
    expect(conditionLowerBound(cholesky(clone(a)))).toBe(9);
    // A diagonal matrix attains it.
    a.data[0] = 100;
    expect(conditionLowerBound(cholesky(clone(a)))).toBe(100);
    expect(conditionLowerBound(cholesky(matrix(0, 0)))).toBe(1);
  });
});

describe('qr', () => {
  it('A = QR, Q orthonormal, R upper triangular; tall, wide, rank-deficient', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 40 }),
        seed,
        (m, n, rank, s) => {
          const a = randomOfRank(s, m, n, rank);
          const { q, r } = qr(a);
          expect(multiply(q, r).data).toBeAllClose(a.data, { rtol: 1e-13, atol: 1e-300 });
          expectOrthonormalColumns(q);
          for (let i = 0; i < r.rows; i++)
            for (let j = 0; j < Math.min(i, n); j++) expect(r.data[i * n + j]).toBe(0);
        },
      ),
      runs,
    );
  });

  it('survives numbers whose squares overflow or vanish', () => {
    for (const factor of [1e200, 1e-200]) {
      const a = matrix(
        6,
        3,
        randomMatrix(5, 6, 3).data.map((value) => value * factor),
      );
      const { q, r } = qr(a);
      expectOrthonormalColumns(q);
      expect(multiply(q, r).data).toBeAllClose(a.data, { rtol: 1e-13 });
    }
  });
});

describe('eigh', () => {
  const check = (a: Matrix) => {
    const { values, vectors } = eigh(a);
    expectOrthonormalColumns(transpose(vectors));
    const back = multiply(transpose(vectors), scaleRows(vectors, values));
    expect(back.data).toBeAllClose(a.data, { rtol: 1e-12, atol: 1e-300 });
    for (let i = 1; i < values.length; i++) expect(values[i]!).toBeGreaterThanOrEqual(values[i - 1]!);
    return values;
  };

  it('A = Vᵀ diag V with orthonormal rows, ascending', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 60 }), seed, (n, s) => {
        const x = randomMatrix(s, n, n);
        check(
          matrix(
            n,
            n,
            x.data.map((value, i) => value + x.data[(i % n) * n + Math.floor(i / n)]!),
          ),
        );
      }),
      runs,
    );
  });

  it('handles rank-deficient Gram matrices, repeated eigenvalues, zero and diagonal matrices', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 40 }), seed, (n, rank, s) => {
        const x = randomMatrix(s, n, Math.min(rank, n));
        const values = check(multiplyTransposed(x, x));
        const largest = values[n - 1]!;
        for (let i = 0; i < n - rank; i++) expect(Math.abs(values[i]!)).toBeLessThanOrEqual(1e-12 * largest);
      }),
      runs,
    );
    check(identity(9));
    check(matrix(7, 7));
    check(matrix(3, 3, Float64Array.of(3, 0, 0, 0, -1, 0, 0, 0, 2)));
    check(matrix(4, 4, Float64Array.of(1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1)));
  });

  it('refuses what is not square or not finite', () => {
    expect(() => eigh(matrix(2, 3))).toThrow(ShapeError);
    expect(() => eigh(matrix(1, 1, Float64Array.of(Number.POSITIVE_INFINITY)))).toThrow(NumericalError);
  });
});

describe('svd', () => {
  it('A = U diag Vᵀ, orthonormal, descending; tall, wide, rank-deficient', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 30 }),
        fc.integer({ min: 0, max: 30 }),
        fc.integer({ min: 0, max: 30 }),
        seed,
        (m, n, rank, s) => {
          const a = randomOfRank(s, m, n, rank);
          const { u, singularValues, v } = svd(a);
          expectOrthonormalColumns(u);
          expectOrthonormalColumns(v);
          const back = multiply(u, scaleRows(transpose(v), singularValues));
          expect(back.data).toBeAllClose(a.data, { rtol: 1e-12, atol: 1e-300 });
          singularValues.forEach((value, i) => {
            expect(value).toBeGreaterThanOrEqual(0);
            if (i > 0) expect(value).toBeLessThanOrEqual(singularValues[i - 1]!);
          });
        },
      ),
      runs,
    );
  });

  it('refuses NaN instead of searching for ever', () => {
    expect(() => svd(matrix(2, 2, Float64Array.of(1, Number.NaN, 0, 1)))).toThrow(NumericalError);
  });
});
