import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError, UsageError } from '../../../src/errors.ts';
import { gradientSystem, solveByGradient } from '../../../src/fusion/solvers/gradient.ts';
import { factoriseInput, leastSquares } from '../../../src/fusion/solvers/least-squares.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { rankOf, scale, toDense } from '../../../src/linalg/low-rank.ts';
import { type Matrix, matrix, transpose } from '../../../src/linalg/matrix.ts';
import { lbfgs } from '../../../src/optim/lbfgs.ts';
import { inOneGo } from '../../../src/pace.ts';
import { relativeError } from '../../support/close.ts';
import { addDense, type RandomProblem, randomProblem } from '../../support/fusion-problems.ts';
import { naiveProduct } from '../../support/matrices.ts';

const wellPosed = { seed: 11, m: 7, n: 9, rows: 40, ridge: 0, preserve: null, ranks: [2, 3] } as const;

function solve(layer: LayerProblem, rows: number, iterations: number) {
  return solveByGradient(inOneGo(gradientSystem(layer.input)), layer, { rows, iterations });
}

/** The slow judge: L-BFGS on the dense change [m, n], loss and gradient from the rows themselves. */
function denseDescent({ layer, base, concepts, preservedFeatures }: RandomProblem, iterations: number) {
  const { lambda, beta } = factoriseInput(layer.input);
  const [m, n] = [base.rows, base.cols];
  const rows = concepts.reduce((total, { features }) => total + features.rows, 0);
  const terms: { features: Matrix; weight: Matrix; factor: number }[] = concepts.map((concept) => ({
    ...concept,
    factor: 1,
  }));
  if (preservedFeatures !== null) terms.push({ features: preservedFeatures, weight: base, factor: beta });
  const evaluate = (x: Float64Array) => {
    const w = addDense(base, matrix(m, n, x));
    let loss = lambda * x.reduce((total, value) => total + value * value, 0);
    const gradient = x.map((value) => 2 * lambda * value);
    for (const { features, weight, factor } of terms) {
      const difference = addDense(
        w,
        matrix(
          m,
          n,
          weight.data.map((value) => -value),
        ),
      );
      const misfit = naiveProduct(features, transpose(difference));
      loss += factor * misfit.data.reduce((total, value) => total + value * value, 0);
      naiveProduct(transpose(misfit), features).data.forEach((value, i) => {
        gradient[i]! += 2 * factor * value;
      });
    }
    return { loss: loss / (rows * m), gradient: gradient.map((value) => value / (rows * m)) };
  };
  const result = lbfgs({ evaluate }, new Float64Array(m * n), {
    maxIterations: iterations,
    toleranceGradient: 1e-16,
    toleranceChange: 1e-16,
  });
  return { ...result, rows };
}

describe('gradient fusion', () => {
  it('takes the steps that L-BFGS takes on dense weights and rows', () => {
    const anyProblem = fc.record({
      seed: fc.integer({ min: 0, max: 2 ** 30 }),
      m: fc.integer({ min: 1, max: 10 }),
      n: fc.integer({ min: 1, max: 10 }),
      ranks: fc.array(fc.option(fc.integer({ min: 1, max: 4 }), { freq: 4 }), { minLength: 1, maxLength: 3 }),
      rows: fc.integer({ min: 1, max: 30 }),
      ridge: fc.constantFrom(0, 1e-2, 1),
      preserve: fc.option(
        fc.record({ weight: fc.constantFrom(0.3, 2), rows: fc.integer({ min: 1, max: 9 }) }),
      ),
    });
    fc.assert(
      fc.property(anyProblem, (options) => {
        fc.pre(options.ranks.some((rank) => rank !== null));
        const problem = randomProblem(options);
        const dense = denseDescent(problem, 6);
        const { losses, delta } = solve(problem.layer, dense.rows, 6);
        // Near the optimum rounding decides when a path ends; until then the two are one.
        const common = Math.min(losses.length, dense.losses.length);
        expect(losses.slice(0, common)).toBeAllClose(dense.losses.slice(0, common), { rtol: 1e-8 });
        if (losses.length === dense.losses.length) {
          expect(relativeError(toDense(delta).data, dense.x)).toBeLessThan(1e-4);
        }
      }),
      { numRuns: 40, seed: 1 },
    );
  });

  it('converges to the closed form, with preservation and ridge too', () => {
    for (const options of [
      { ...wellPosed },
      { ...wellPosed, ridge: 1e-2, preserve: { weight: 0.5, rows: 6 } },
      { ...wellPosed, rows: 2 },
    ]) {
      const { layer } = randomProblem(options);
      const { delta } = solve(layer, 2 * options.rows, 500);
      expect(relativeError(toDense(delta).data, toDense(leastSquares(layer)).data)).toBeLessThan(1e-5);
      expect(rankOf(delta)).toBeLessThanOrEqual(5);
    }
  });

  it('is the same with rows in place of their Gram matrices', () => {
    const { layer, concepts } = randomProblem({ ...wellPosed, rows: 3 });
    const grams = concepts.map(({ features }) => ({ features }));
    const a = solve(layer, 6, 10);
    const b = solve({ ...layer, input: { ...layer.input, grams } }, 6, 10);
    expect(b.losses).toBeAllClose(a.losses, { rtol: 1e-9 });
  });

  it('changes nothing where no concept trains the layer, or all have strength 0', () => {
    const { layer } = randomProblem(wellPosed);
    const untrained = solve({ ...layer, deltas: [null, null] }, 80, 10);
    expect(untrained).toMatchObject({ losses: [0], stopped: null });
    expect(rankOf(untrained.delta)).toBe(0);
    const zero = solve({ ...layer, deltas: layer.deltas.map((delta) => scale(delta!, 0)) }, 80, 10);
    expect(Math.max(...toDense(zero.delta).data.map(Math.abs))).toBe(0);
  });

  it('refuses what it cannot minimise, by name', () => {
    const { layer } = randomProblem(wellPosed);
    expect(() => solve(layer, 0, 10)).toThrow(UsageError);
    expect(() => solve(layer, 80, 0)).toThrow(UsageError);
    expect(() => solve({ ...layer, deltas: [null] }, 80, 10)).toThrow(ShapeError);
    const broken = { ...layer, deltas: [scale(layer.deltas[0]!, Number.NaN), null] };
    expect(() => solve(broken, 80, 10)).toThrow(NumericalError);
    expect(() => solve(broken, 80, 10)).toThrow(/^block\.to_q: .*finite/);
  });
});
