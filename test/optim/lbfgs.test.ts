/** L-BFGS against torch's on the same functions (fixtures/lbfgs), evaluation by evaluation, and by its own promises. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, UsageError } from '../../src/errors.ts';
import { matrix, transpose } from '../../src/linalg/matrix.ts';
import { dot, multiply, multiplyTransposed } from '../../src/linalg/products.ts';
import { qr } from '../../src/linalg/qr.ts';
import { type Evaluation, lbfgs } from '../../src/optim/lbfgs.ts';
import { packageRoot } from '../../src/package-root.ts';
import { gaussianSolve } from '../support/dense-least-squares.ts';
import { randomMatrix } from '../support/matrices.ts';

interface Case {
  readonly function: string;
  readonly size: number;
  readonly max_iter: number;
  readonly history_size: number;
  readonly tolerance_grad: number;
  readonly tolerance_change: number;
  readonly iterations: number;
  /** At every evaluation, in order. */
  readonly losses: readonly number[];
  readonly best: readonly number[];
}

type Start = (i: number) => number;

const functions: Record<string, { start: Start; evaluate: (x: Float64Array) => Evaluation }> = {
  rosenbrock: {
    start: (i) => (i % 2 === 0 ? -1.2 : 1),
    evaluate: (x) => {
      const gradient = new Float64Array(x.length);
      let loss = 0;
      for (let i = 0; i + 1 < x.length; i++) {
        const a = x[i + 1]! - x[i]! ** 2;
        const b = 1 - x[i]!;
        loss += 100 * a * a + b * b;
        gradient[i]! += -400 * a * x[i]! - 2 * b;
        gradient[i + 1]! += 200 * a;
      }
      return { loss, gradient };
    },
  },
  quadratic: {
    start: () => 0,
    evaluate: (x) => {
      const gradient = new Float64Array(x.length);
      let loss = 0;
      for (let i = 0; i < x.length; i++) {
        const d = 10 ** ((-4 * i) / (x.length - 1));
        const difference = x[i]! - (i === 0 ? 1 : x[i - 1]!);
        loss += 0.5 * d * difference * difference;
        gradient[i]! += d * difference;
        if (i > 0) gradient[i - 1]! -= d * difference;
      }
      return { loss, gradient };
    },
  },
  quartic: {
    start: () => 1,
    evaluate: (x) => {
      const total = x.reduce((sum, value) => sum + value, 0);
      const offset = (i: number) => x[i]! - i / x.length;
      return {
        loss: x.reduce((sum, _, i) => sum + offset(i) ** 4 / 4, 0.01 * total * total),
        gradient: x.map((_, i) => offset(i) ** 3 + 0.02 * total),
      };
    },
  },
};

const { cases } = JSON.parse(readFileSync(path.join(packageRoot(), 'fixtures/lbfgs/lbfgs.json'), 'utf8')) as {
  cases: Case[];
};

it.each(cases)('takes torch’s path: $function of $size, $max_iter iterations', (expected) => {
  const { start, evaluate } = functions[expected.function]!;
  const trace: number[] = [];
  const result = lbfgs(
    {
      evaluate: (x) => {
        const evaluation = evaluate(x);
        trace.push(evaluation.loss);
        return evaluation;
      },
    },
    Float64Array.from({ length: expected.size }, (_, i) => start(i)),
    {
      maxIterations: expected.max_iter,
      history: expected.history_size,
      toleranceGradient: expected.tolerance_grad,
      toleranceChange: expected.tolerance_change,
    },
  );
  // Sums are taken in another order, and a path amplifies rounding: by 1e-9 of the first loss at most, on these.
  expect(trace).toBeAllClose(expected.losses, { atol: 1e-9 * expected.losses[0]!, rtol: 0 });
  expect(result.evaluations).toBe(expected.losses.length);
  // torch counts the iteration that it gives up for want of slope.
  const begun = result.losses.length - 1 + (result.stopped === 'slope' ? 1 : 0);
  expect(begun).toBe(expected.iterations);
  expect(result.loss).toBe(Math.min(...trace));
  expect(result.x).toBeAllClose(expected.best, { rtol: 1e-6 });
});

/** 0.5 xᵀ H x − bᵀ x with H = AᵀA + shift I. */
function quadraticForm(seed: number, n: number, shift: number) {
  const a = randomMatrix(seed, n, n);
  const h = multiplyTransposed(a, a);
  for (let i = 0; i < n; i++) h.data[i * n + i]! += shift;
  const b = randomMatrix(seed + 1, n, 1);
  const evaluate = (x: Float64Array): Evaluation => {
    const product = multiply(h, matrix(n, 1, x)).data;
    return {
      loss: 0.5 * dot(product, 0, x, 0, n) - dot(b.data, 0, x, 0, n),
      gradient: product.map((value, i) => value - b.data[i]!),
    };
  };
  return { h, b, evaluate };
}

describe('promises', () => {
  it('finds the minimum of a convex quadratic', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 20 }), fc.integer({ min: 1, max: 12 }), (seed, n) => {
        const { h, b, evaluate } = quadraticForm(seed, n, 1);
        const result = lbfgs({ evaluate }, new Float64Array(n), {
          maxIterations: 300,
          toleranceGradient: 1e-12,
          toleranceChange: 1e-18,
        });
        expect(result.x).toBeAllClose(gaussianSolve(h, b).data, { rtol: 1e-5 });
        result.losses.reduce((before, loss) => {
          expect(loss).toBeLessThanOrEqual(before);
          return loss;
        });
      }),
      { numRuns: 40, seed: 1 },
    );
  });

  it('walks the same path in rotated coordinates when it is told the original norms', () => {
    const n = 8;
    const { evaluate } = quadraticForm(3, n, 0.1);
    const { q } = qr(randomMatrix(9, n, n));
    const back = (z: Float64Array) => multiply(q, matrix(n, 1, z)).data;
    const options = { maxIterations: 15, toleranceGradient: 1e-16, toleranceChange: 1e-16 };
    const plain = lbfgs({ evaluate }, new Float64Array(n), options);
    const rotated = lbfgs(
      {
        evaluate: (z) => {
          const { loss, gradient } = evaluate(back(z));
          return { loss, gradient: multiply(transpose(q), matrix(n, 1, gradient)).data };
        },
        isWithin: (z, bound) => Math.max(...back(z).map(Math.abs)) <= bound,
        sumAbs: (z) => back(z).reduce((sum, value) => sum + Math.abs(value), 0),
      },
      new Float64Array(n),
      options,
    );
    expect(rotated.losses).toBeAllClose(plain.losses, { rtol: 1e-9 });
    expect(back(rotated.x)).toBeAllClose(plain.x, { rtol: 1e-7 });
  });

  describe('while the line search steps out', () => {
    /** Where it looks next, of a function that answers each look with the next of these losses and slopes. */
    const looks = (answers: readonly (readonly [loss: number, slope: number])[]): number[] => {
      const places: number[] = [];
      const evaluate = (x: Float64Array): Evaluation => {
        const [loss, slope] = answers[Math.min(places.length, answers.length - 1)]!;
        places.push(x[0]!);
        return { loss, gradient: Float64Array.of(slope) };
      };
      lbfgs({ evaluate }, new Float64Array(1), { maxIterations: 1, maxEvaluations: answers.length + 1 });
      return places;
    };
    // Falling all the way and never flat: nothing but the loss can end it.
    const before = [
      [10, -1],
      [9, -2],
      [8, -2],
    ] as const;

    it('a third look that is no better than the second encloses the minimum, an equal one too', () => {
      for (const loss of [8, 8.5]) {
        const [, , second, third, next] = looks([...before, [loss, -2], [8, -2]]);
        expect(third).toBeGreaterThan(second!);
        expect(next).toBeGreaterThan(second!);
        expect(next).toBeLessThan(third!);
      }
    });

    it('a better one goes on, and so does a second that is no better than the first, as in torch', () => {
      const [, , , third, next] = looks([...before, [7.9, -2], [8, -2]]);
      expect(next).toBeGreaterThan(third!);
      const [, first, second, after] = looks([...before.slice(0, 2), [9.5, -2], [8, -2]]);
      expect(second).toBeGreaterThan(first!);
      expect(after).toBeGreaterThan(second!);
    });
  });

  it('stays within its budget of evaluations', () => {
    const { start, evaluate } = functions.rosenbrock!;
    const result = lbfgs(
      { evaluate },
      Float64Array.from({ length: 4 }, (_, i) => start(i)),
      { maxIterations: 100, maxEvaluations: 7 },
    );
    expect(result.evaluations).toBeLessThanOrEqual(8);
    expect(result.stopped).toBe('evaluations');
  });

  it('stops at once where the gradient vanishes', () => {
    const { h, b, evaluate } = quadraticForm(3, 4, 1);
    const atMinimum = gaussianSolve(h, b).data;
    const result = lbfgs({ evaluate }, atMinimum, { maxIterations: 5 });
    expect(result).toMatchObject({ stopped: 'gradient', evaluations: 1 });
    expect(result.x).toEqual(atMinimum);
  });

  it('refuses counts that are none and losses that are not finite', () => {
    const { evaluate } = quadraticForm(3, 4, 1);
    expect(() => lbfgs({ evaluate }, new Float64Array(4), { maxIterations: 0 })).toThrow(UsageError);
    expect(() => lbfgs({ evaluate }, new Float64Array(4), { maxIterations: 2, history: 1.5 })).toThrow(
      /history: expected a whole number/,
    );
    const broken = { evaluate: () => ({ loss: Number.NaN, gradient: new Float64Array(2) }) };
    expect(() => lbfgs(broken, new Float64Array(2), { maxIterations: 2 })).toThrow(NumericalError);
  });
});
