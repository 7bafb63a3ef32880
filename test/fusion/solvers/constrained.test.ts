import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, UsageError } from '../../../src/errors.ts';
import { constrainInput, solveConstrained } from '../../../src/fusion/solvers/constrained.ts';
import { leastSquares } from '../../../src/fusion/solvers/least-squares.ts';
import type { InputProblem, LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import {
  applyToRows,
  featureNormSquared,
  frobeniusNorm,
  type LowRank,
  lowRank,
  rankOf,
  sum,
  toDense,
} from '../../../src/linalg/low-rank.ts';
import { type Matrix, matrix, stackRows, transpose } from '../../../src/linalg/matrix.ts';
import { qr } from '../../../src/linalg/qr.ts';
import { gramOf } from '../../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../../support/matrices.ts';

interface Options {
  readonly seed: number;
  readonly n: number;
  readonly rows: readonly number[];
  readonly captions: number;
  readonly ridge: number;
}

const usual: Options = { seed: 5, n: 9, rows: [2, 3], captions: 30, ridge: 0 };

function problem({ seed, n, rows, captions, ridge }: Options): LayerProblem & { features: Matrix[] } {
  const m = 6;
  const features = rows.map((count, i) => randomMatrix(seed + i, count, n));
  const input: InputProblem = {
    inputName: 'block.attn2.to_k',
    inputSize: n,
    grams: features.map((each) => ({ features: each })),
    preserve: { gram: gramOf(randomMatrix(seed + 40, captions, n)), weight: 1 },
    ridge,
  };
  const deltas = rows.map((_, i) =>
    lowRank(randomMatrix(seed + 10 + i, m, 2), randomMatrix(seed + 20 + i, 2, n)),
  );
  return { layerName: 'block.attn2.to_k', outputSize: m, deltas, input, features };
}

const fuse = (layer: LayerProblem) => solveConstrained(constrainInput(layer.input), layer);

describe('constrained merge', () => {
  it('keeps every concept’s answers on its token rows, and moves captions least among all that do', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 30 }),
        fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }),
        fc.constantFrom(0, 1e-3),
        (seed, rows, ridge) => {
          const layer = problem({ ...usual, seed, rows, ridge, n: 12 });
          const fused = fuse(layer);
          layer.features.forEach((features, i) => {
            const own = applyToRows(layer.deltas[i]!, features).data;
            expect(applyToRows(fused, features).data).toBeAllClose(own, { rtol: 1e-8 });
          });
          // Least: any change v cᵀ with C c = 0 keeps the constraints, and only adds to the objective.
          const objective = (delta: LowRank) =>
            featureNormSquared(delta, layer.input.preserve!.gram) +
            constrainInput(layer.input).lambda * frobeniusNorm(delta) ** 2;
          const free = lowRank(randomMatrix(seed + 50, 6, 1), orthogonalTo(layer.features, seed + 51));
          const here = objective(fused);
          const curvature = objective(free);
          const slope = objective(sum([fused, free])) - here - curvature;
          expect(Math.abs(slope)).toBeLessThan(1e-8 * Math.sqrt(here * curvature));
        },
      ),
      { numRuns: 30, seed: 1 },
    );
  });

  it('is the limit of the ridge problem for concepts that outweigh the captions', () => {
    const layer = problem(usual);
    const limit = {
      ...layer,
      input: { ...layer.input, preserve: { ...layer.input.preserve!, weight: 1e-9 }, ridge: 1e-14 },
    };
    expect(toDense(fuse(layer)).data).toBeAllClose(toDense(leastSquares(limit)).data, { rtol: 1e-4 });
  });

  it('does not depend on the order of concepts, and gives a LoRA of at most the sum of the ranks', () => {
    const layer = problem(usual);
    const reversed = {
      ...layer,
      deltas: layer.deltas.toReversed(),
      input: { ...layer.input, grams: layer.input.grams.toReversed() },
    };
    expect(toDense(fuse(reversed)).data).toBeAllClose(toDense(fuse(layer)).data, { rtol: 1e-9 });
    expect(rankOf(fuse(layer))).toBe(4);
    expect(rankOf(fuse({ ...layer, deltas: [null, null] }))).toBe(0);
  });

  it('takes a repeated token row once: the first concept’s answer to it stands', () => {
    const layer = problem(usual);
    const [first, second] = layer.features as [Matrix, Matrix];
    const repeated = stackRows(9, [second, matrix(1, 9, first.data.slice(0, 9))]);
    const input = { ...layer.input, grams: [{ features: first }, { features: repeated }] };
    expect(constrainInput(input)).toMatchObject({ constraints: 5, repeated: 1 });
    expect(toDense(fuse({ ...layer, input })).data).toEqual(toDense(fuse(layer)).data);
  });

  it('needs a ridge where captions do not span the features, and says so', () => {
    expect(() => fuse(problem({ ...usual, captions: 4 }))).toThrow(NumericalError);
    expect(() => fuse(problem({ ...usual, captions: 4 }))).toThrow(
      /^block\.attn2\.to_k: Gram matrix of the regularisation captions: .*pivot.*raise the ridge/,
    );
    const fused = fuse(problem({ ...usual, captions: 4, ridge: 1e-3 }));
    expect(toDense(fused).data.every(Number.isFinite)).toBe(true);
  });

  it('refuses constraints that cannot hold together, Gram matrices for rows, and no captions', () => {
    expect(() => fuse(problem({ ...usual, rows: [6, 6] }))).toThrow(/token row 10 of 12/);
    const { input } = problem(usual);
    const gram = gramOf(randomMatrix(1, 4, 9));
    expect(() => constrainInput({ ...input, grams: [gram, gram] })).toThrow(UsageError);
    expect(() => constrainInput({ ...input, grams: [gram, gram] })).toThrow(/token rows of concept 1/);
    expect(() => constrainInput({ ...input, preserve: null })).toThrow(/regularisation captions, got none/);
    const broken = problem(usual);
    broken.deltas[0]!.down.data[3] = Number.NaN;
    expect(() => fuse(broken)).toThrow(/^block\.attn2\.to_k: .*NaN/);
  });
});

/** A row [1, n] that no token row sees. */
function orthogonalTo(features: readonly Matrix[], seed: number): Matrix {
  const n = features[0]!.cols;
  const { q } = qr(transpose(stackRows(n, features)));
  const row = randomMatrix(seed, 1, n);
  const seen = naiveProduct(naiveProduct(row, q), transpose(q));
  return matrix(
    1,
    n,
    row.data.map((value, i) => value - seen.data[i]!),
  );
}
