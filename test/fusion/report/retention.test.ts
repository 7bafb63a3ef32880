import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../../src/errors.ts';
import { fusionLoss, measureRetention } from '../../../src/fusion/report/retention.ts';
import { leastSquares } from '../../../src/fusion/solvers/least-squares.ts';
import {
  applyToRows,
  frobeniusNorm,
  lowRank,
  scale,
  subtract,
  zeroDelta,
} from '../../../src/linalg/low-rank.ts';
import type { Matrix } from '../../../src/linalg/matrix.ts';
import { randomProblem } from '../../support/fusion-problems.ts';
import { randomMatrix } from '../../support/matrices.ts';

const problem = (seed: number, ranks: (number | null)[]) =>
  randomProblem({
    seed,
    m: 6,
    n: 8,
    ranks,
    rows: 12,
    ridge: 1e-2,
    preserve: { weight: 1, rows: 5 },
  });

const norm = (a: Matrix) => Math.hypot(...a.data);

describe('measureRetention', () => {
  it('equals what the raw feature rows say', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 30 }), (seed) => {
        const { layer, concepts, preservedFeatures } = problem(seed, [2, 3, null]);
        const fused = lowRank(randomMatrix(seed + 60, 6, 2), randomMatrix(seed + 61, 2, 8));
        const measured = measureRetention(layer, fused);
        measured.concepts.forEach((concept, i) => {
          const { features } = concepts[i]!;
          const own = layer.deltas[i] ?? zeroDelta(6, 8);
          const effect = norm(applyToRows(own, features)) ** 2;
          const residual = norm(applyToRows(subtract(fused, own), features)) ** 2;
          expect([concept.ownEffect, concept.residual]).toBeAllClose([effect, residual], { rtol: 1e-11 });
          if (layer.deltas[i] === null) expect(concept.retention).toBeNull();
          else expect(concept.retention).toBeCloseTo(1 - residual / effect, 9);
          const others = layer.deltas.map((delta) => norm(applyToRows(delta ?? zeroDelta(6, 8), features)));
          expect(measured.crosstalk[i]).toBeAllClose(others, { rtol: 1e-11 });
        });
        const preserved = norm(applyToRows(fused, preservedFeatures!)) / norm(preservedFeatures!);
        expect(measured.preservedChange).toBeCloseTo(preserved, 10);
        expect(measured.changeNorm).toBeCloseTo(frobeniusNorm(fused), 10);
        const largest = Math.max(frobeniusNorm(layer.deltas[0]!), frobeniusNorm(layer.deltas[1]!));
        expect(measured.relativeChange).toBeCloseTo(frobeniusNorm(fused) / largest, 10);
      }),
      { numRuns: 30, seed: 1 },
    );
  });

  it('is 1 for the concept’s own delta, 0 for the base, −3 for the opposite', () => {
    const { layer } = problem(1, [2]);
    const own = layer.deltas[0]!;
    const retention = (factor: number) => measureRetention(layer, scale(own, factor)).concepts[0]!.retention!;
    expect(retention(1)).toBeCloseTo(1, 14);
    expect(retention(0)).toBeCloseTo(0, 14);
    expect(retention(-1)).toBeCloseTo(-3, 12);
  });

  it('knows no retention where there is no effect', () => {
    const { layer } = problem(2, [null, null]);
    const measured = measureRetention(layer, zeroDelta(6, 8));
    expect(measured.concepts.map((concept) => concept.retention)).toEqual([null, null]);
    expect(measured.relativeChange).toBeNull();
    expect(
      measureRetention({ ...layer, input: { ...layer.input, preserve: null } }, zeroDelta(6, 8))
        .preservedChange,
    ).toBeNull();
  });

  it('refuses a result of another shape', () => {
    expect(() => measureRetention(problem(3, [2, 2]).layer, zeroDelta(6, 9))).toThrow(ShapeError);
    expect(() => measureRetention(problem(3, [2, null]).layer, zeroDelta(6, 9))).toThrow(ShapeError);
  });
});

describe('fusionLoss', () => {
  it('is the mean squared error over rows and outputs, least at the solution', () => {
    const { layer, concepts } = problem(4, [2, 3]);
    const free = { ...layer, input: { ...layer.input, preserve: null, ridge: 0 } };
    const fused = leastSquares(free);
    const squares = concepts.reduce(
      (total, { features }, i) => total + norm(applyToRows(subtract(fused, layer.deltas[i]!), features)) ** 2,
      0,
    );
    expect([fusionLoss(free, fused, 24)]).toBeAllClose([squares / (24 * 6)], { rtol: 1e-10 });
    for (const other of [zeroDelta(6, 8), layer.deltas[0]!, leastSquares(layer)]) {
      expect(fusionLoss(free, fused, 24)).toBeLessThan(fusionLoss(free, other, 24));
    }
  });
});
