import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError, UsageError } from '../../../src/errors.ts';
import { factoriseInput, leastSquares, solveLayer } from '../../../src/fusion/solvers/least-squares.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { packedSymmetric, packFloat64 } from '../../../src/linalg/gram.ts';
import {
  applyToRows,
  featureNormSquared,
  frobeniusNorm,
  innerProduct,
  type LowRank,
  lowRank,
  rankOf,
  scale,
  sum,
  toDense,
} from '../../../src/linalg/low-rank.ts';
import { identity, type Matrix, matrix } from '../../../src/linalg/matrix.ts';
import { denseFusion, leastSquaresOnRows } from '../../support/dense-least-squares.ts';
import { addDense, gramOf, type RandomProblemOptions, randomProblem } from '../../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../../support/matrices.ts';

const rank = fc.option(fc.integer({ min: 0, max: 4 }), { freq: 4 });
const anyProblem: fc.Arbitrary<RandomProblemOptions> = fc.record({
  seed: fc.integer({ min: 0, max: 2 ** 30 }),
  m: fc.integer({ min: 1, max: 12 }),
  n: fc.integer({ min: 1, max: 12 }),
  ranks: fc.array(rank, { minLength: 1, maxLength: 4 }),
  rows: fc.integer({ min: 1, max: 30 }),
  ridge: fc.constantFrom(1e-3, 1e-1, 1, 10),
  preserve: fc.option(
    fc.record({ weight: fc.constantFrom(0, 0.3, 1, 5), rows: fc.integer({ min: 1, max: 20 }) }),
  ),
});
const runs = { numRuns: 60, seed: 1 };
const wellPosed = { seed: 11, m: 7, n: 9, rows: 40, ridge: 0, preserve: null } as const;

function withInput(layer: LayerProblem, change: Partial<LayerProblem['input']>): LayerProblem {
  return { ...layer, input: { ...layer.input, ...change } };
}

/** The objective of problem.ts at ΔW, with the absolute λ and β′ of the factorised system. */
function objective(layer: LayerProblem, lambda: number, beta: number, delta: LowRank): number {
  const { grams, preserve } = layer.input;
  const fit = grams.reduce((total, gram, i) => {
    const own = layer.deltas[i]!;
    return total + featureNormSquared(own === null ? delta : sum([delta, scale(own, -1)]), gram);
  }, 0);
  const kept = preserve === null ? 0 : beta * featureNormSquared(delta, preserve.gram);
  return fit + kept + lambda * frobeniusNorm(delta) ** 2;
}

function negligible(delta: LowRank, reference: readonly (LowRank | null)[], tolerance: number): void {
  const largest = Math.max(...reference.map((own) => (own === null ? 0 : frobeniusNorm(own))));
  expect(frobeniusNorm(delta)).toBeLessThanOrEqual(tolerance * largest);
}

describe('closed form against the slow judges', () => {
  it('agrees with dense normal equations by Gaussian elimination', () => {
    fc.assert(
      fc.property(anyProblem, (options) => {
        const { layer, base, concepts, preservedFeatures } = randomProblem(options);
        const system = factoriseInput(layer.input);
        const fused = solveLayer(system, layer);
        const expected = denseFusion(
          base,
          concepts,
          system.lambda,
          preservedFeatures === null ? null : { features: preservedFeatures, beta: system.beta },
        );
        expect(addDense(base, toDense(fused)).data).toBeAllClose(expected.data, { rtol: 1e-9 });
        expect(rankOf(fused)).toBe(options.ranks.reduce<number>((total, r) => total + (r ?? 0), 0));
      }),
      runs,
    );
  });

  it('with ridge 0 agrees with least squares on the rows', () => {
    const { layer, base, concepts } = randomProblem({ ...wellPosed, ranks: [2, 3, null] });
    const expected = leastSquaresOnRows(concepts);
    const { rank: directions } = factoriseInput(layer.input);
    expect(directions).toBe(9);
    expect(addDense(base, toDense(leastSquares(layer))).data).toBeAllClose(expected.data, { rtol: 1e-10 });
  });

  it('with ridge 0 and few rows interpolates them, with no change where there are no features', () => {
    const { layer, concepts } = randomProblem({ ...wellPosed, rows: 3, ranks: [2, 3] });
    const system = factoriseInput(layer.input);
    expect(system.rank).toBe(6);
    const fused = solveLayer(system, layer);
    concepts.forEach(({ features }, i) => {
      const target = applyToRows(layer.deltas[i]!, features).data;
      expect(applyToRows(fused, features).data).toBeAllClose(target, { rtol: 1e-9 });
    });
    // Minimum norm: any other interpolating change, here one plus something the features do not see, is larger.
    const limit = leastSquares(withInput(layer, { ridge: 1e-9 }));
    expect(toDense(fused).data).toBeAllClose(toDense(limit).data, { rtol: 1e-5 });
  });
});

describe('properties of fusion', () => {
  it('λ is relative to the mean diagonal, β′ to the ratio of the traces', () => {
    const { layer, concepts, preservedFeatures } = randomProblem({
      ...wellPosed,
      ranks: [2, null],
      ridge: 0.25,
      preserve: { weight: 0.5, rows: 6 },
    });
    const energy = concepts.reduce((total, { features }) => total + Math.hypot(...features.data) ** 2, 0);
    const { lambda, beta } = factoriseInput(layer.input);
    expect(lambda).toBeCloseTo((0.25 * energy) / 9, 9);
    expect(beta).toBeCloseTo((0.5 * energy) / Math.hypot(...preservedFeatures!.data) ** 2, 9);
  });

  it('the gradient of the objective vanishes at the solution', () => {
    fc.assert(
      fc.property(anyProblem, (options) => {
        const { layer } = randomProblem(options);
        const system = factoriseInput(layer.input);
        const fused = solveLayer(system, layer);
        const at = (delta: LowRank) => objective(layer, system.lambda, system.beta, delta);
        const direction = lowRank(
          randomMatrix(options.seed + 50, options.m, 1),
          randomMatrix(options.seed + 51, 1, options.n),
        );
        // Quadratic: central differences are exact, and the curvature along the direction sets the scale.
        const up = at(sum([fused, direction]));
        const down = at(sum([fused, scale(direction, -1)]));
        const here = at(fused);
        expect(Math.abs(up - down)).toBeLessThanOrEqual(1e-9 * (up + down));
        expect(here).toBeLessThanOrEqual(Math.min(up, down));
      }),
      runs,
    );
  });

  it('strength 0 changes nothing', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [2, 3], ridge: 1e-2 });
    const silent = { ...layer, deltas: layer.deltas.map((delta) => scale(delta!, 0)) };
    expect(frobeniusNorm(leastSquares(silent))).toBe(0);
    const untrained = { ...layer, deltas: [null, null] };
    expect(rankOf(leastSquares(untrained))).toBe(0);
    expect(toDense(leastSquares(untrained)).data).toEqual(new Float64Array(7 * 9));
  });

  it('one concept with full-rank features and λ = 0 returns its own delta', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [3] });
    const fused = leastSquares(layer);
    negligible(sum([fused, scale(layer.deltas[0]!, -1)]), layer.deltas, 1e-11);
  });

  it('the order of concepts is irrelevant', () => {
    fc.assert(
      fc.property(anyProblem, (options) => {
        const { layer } = randomProblem(options);
        const reversed = withInput(
          { ...layer, deltas: layer.deltas.toReversed() },
          { grams: layer.input.grams.toReversed() },
        );
        const a = toDense(leastSquares(layer)).data;
        expect(toDense(leastSquares(reversed)).data).toBeAllClose(a, { rtol: 1e-10, atol: 1e-12 });
      }),
      runs,
    );
  });

  it('is linear in the strengths', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [2, 3], ridge: 1e-2 });
    const doubled = { ...layer, deltas: layer.deltas.map((delta) => scale(delta!, 2)) };
    const expected = toDense(scale(leastSquares(layer), 2)).data;
    expect(toDense(leastSquares(doubled)).data).toBeAllClose(expected, { rtol: 1e-12 });
  });

  it('λ → ∞ returns the base', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [2, 3], ridge: 1e12 });
    negligible(leastSquares(layer), layer.deltas, 1e-10);
  });

  it('preservation with β → ∞ returns the base on the preserved features, and leaves the others free', () => {
    const { layer, preservedFeatures } = randomProblem({
      ...wellPosed,
      ranks: [2, 3],
      ridge: 1e-6,
      preserve: { weight: 1e8, rows: 4 },
    });
    const fused = leastSquares(layer);
    const effect = Math.hypot(...applyToRows(fused, preservedFeatures!).data);
    const own = Math.hypot(...applyToRows(layer.deltas[0]!, preservedFeatures!).data);
    expect(effect / own).toBeLessThan(1e-6);
    expect(frobeniusNorm(fused)).toBeGreaterThan(0.1 * frobeniusNorm(layer.deltas[0]!));
  });

  it('layers with a common input share one factorisation', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [2, 3], ridge: 1e-2 });
    const system = factoriseInput(layer.input);
    const value: LayerProblem = {
      ...layer,
      layerName: 'block.to_v',
      outputSize: 4,
      deltas: [null, lowRank(randomMatrix(5, 4, 2), randomMatrix(6, 2, 9))],
    };
    for (const each of [layer, value]) {
      expect(toDense(solveLayer(system, each)).data).toEqual(toDense(leastSquares(each)).data);
    }
  });

  it('takes packed float32 Gram matrices as well', () => {
    const { layer } = randomProblem({ ...wellPosed, ranks: [2, 3], ridge: 1e-2 });
    const rounded = (gram: Matrix) => packedSymmetric(gram.rows, Float32Array.from(packFloat64(gram).packed));
    const packed = withInput(layer, { grams: layer.input.grams.map((gram) => rounded(gram as Matrix)) });
    // float32 rounding of the Gram matrices, times a condition number of about ten
    expect(toDense(leastSquares(packed)).data).toBeAllClose(toDense(leastSquares(layer)).data, {
      rtol: 1e-5,
    });
  });

  it('keeps λ and β′ relative to the concepts’ energy, so that the scale of the features does not matter', () => {
    const { layer } = randomProblem({
      ...wellPosed,
      ranks: [2, 3],
      ridge: 1e-1,
      preserve: { weight: 0.5, rows: 6 },
    });
    const scaled = (gram: Matrix, factor: number) =>
      matrix(
        gram.rows,
        gram.cols,
        gram.data.map((value) => factor * value),
      );
    const other = withInput(layer, {
      grams: layer.input.grams.map((gram) => scaled(gram as Matrix, 1e6)),
      preserve: { gram: scaled(layer.input.preserve!.gram as Matrix, 1e-3), weight: 0.5 },
    });
    expect(toDense(leastSquares(other)).data).toBeAllClose(toDense(leastSquares(layer)).data, {
      rtol: 1e-11,
    });
  });
});

describe('what cannot be solved', () => {
  const { layer } = randomProblem({ ...wellPosed, rows: 2, ranks: [2, 3], ridge: 1e-2 });
  const named = (change: Partial<LayerProblem['input']>) => withInput(layer, change);

  it('a ridge that is lost in the rounding of a singular system is as good as none', () => {
    const least = toDense(leastSquares(named({ ridge: 0 }))).data;
    expect(toDense(leastSquares(named({ ridge: 1e-300 }))).data).toBeAllClose(least, { rtol: 1e-10 });
  });

  it('zero and non-finite features, deltas and preservation are refused, never NaN', () => {
    const nan = gramOf(randomMatrix(1, 5, 9));
    nan.data[3 * 9 + 1] = Number.NaN;
    const cases: [LayerProblem, RegExp][] = [
      [named({ grams: [matrix(9, 9), matrix(9, 9)] }), /block\.to_q: .*positive finite trace, got 0/],
      [named({ grams: [nan, identity(9)] }), /block\.to_q: .*pivot 3/],
      [named({ grams: [nan, identity(9)], ridge: 0 }), /block\.to_q: .*finite/],
      [named({ preserve: { gram: matrix(9, 9), weight: 1 } }), /block\.to_q: preservation/],
      [
        { ...layer, deltas: [scale(layer.deltas[0]!, Number.NaN), null] },
        /block\.to_q: .*finite numbers, got NaN/,
      ],
      [
        {
          ...layer,
          deltas: [{ ...layer.deltas[0]!, down: matrix(2, 9, new Float64Array(18).fill(Number.NaN)) }, null],
        },
        /block\.to_q: .*finite numbers, got NaN/,
      ],
    ];
    for (const [problem, message] of cases) {
      expect(() => leastSquares(problem)).toThrow(NumericalError);
      expect(() => leastSquares(problem)).toThrow(message);
    }
  });

  it('a concept without energy in a preserved or ridge-regularised layer is no error', () => {
    const fused = leastSquares(named({ grams: [matrix(9, 9), identity(9)] }));
    expect(innerProduct(fused, layer.deltas[1]!)).toBeGreaterThan(0);
  });

  it('shapes and parameters that do not fit', () => {
    const shapes: [LayerProblem, RegExp][] = [
      [{ ...layer, deltas: [null] }, /expected 2 deltas/],
      [{ ...layer, outputSize: 8 }, /delta of concept 1: expected \[8, 9\], got \[7, 9\]/],
      [
        named({ grams: [identity(9), identity(8)] }),
        /Gram matrix of concept 2: expected \[9, 9\], got \[8, 8\]/,
      ],
      [named({ grams: [identity(9), matrix(9, 8)] }), /Gram matrix of concept 2/],
      [named({ preserve: { gram: identity(3), weight: 1 } }), /preservation Gram matrix/],
      [{ ...named({ grams: [] }), deltas: [] }, /got none/],
    ];
    for (const [problem, message] of shapes) {
      expect(() => leastSquares(problem)).toThrow(ShapeError);
      expect(() => leastSquares(problem)).toThrow(message);
    }
    expect(() => leastSquares(named({ ridge: -1 }))).toThrow(UsageError);
    expect(() => leastSquares(named({ ridge: Number.NaN }))).toThrow(UsageError);
    expect(() => leastSquares(named({ preserve: { gram: identity(9), weight: -1 } }))).toThrow(UsageError);
    expect(() => solveLayer(factoriseInput(named({ ridge: 1 }).input), layer)).toThrow(ShapeError);
  });
});

it('the judge itself: Gaussian elimination reproduces a known product', () => {
  const { base, concepts } = randomProblem({ ...wellPosed, ranks: [2] });
  const same = concepts.map(({ features }) => ({ features, weight: base }));
  expect(denseFusion(base, same, 0.5, null).data).toBeAllClose(base.data, { rtol: 1e-12 });
  expect(naiveProduct(base, identity(9)).data).toEqual(base.data);
});
