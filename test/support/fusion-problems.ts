/** Small random fusion problems, as raw rows and dense weights (for the slow judge) and as the solver's own types. */
import type { InputProblem, LayerProblem } from '../../src/fusion/solvers/problem.ts';
import { GramAccumulator } from '../../src/linalg/gram.ts';
import { type LowRank, lowRank, toDense } from '../../src/linalg/low-rank.ts';
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import type { DenseConcept } from './dense-least-squares.ts';
import { randomMatrix } from './matrices.ts';

export interface RandomProblemOptions {
  readonly seed: number;
  readonly m: number;
  readonly n: number;
  /** Rank of each concept's delta; `null` for a concept that does not train the layer. */
  readonly ranks: readonly (number | null)[];
  /** Feature rows of each concept. */
  readonly rows: number;
  readonly ridge: number;
  /** `null`, or β and the number of preserved feature rows. */
  readonly preserve: { readonly weight: number; readonly rows: number } | null;
}

export interface RandomProblem {
  readonly layer: LayerProblem;
  readonly base: Matrix;
  readonly concepts: readonly DenseConcept[];
  readonly preservedFeatures: Matrix | null;
}

export function gramOf(features: Matrix): Matrix {
  const gram = new GramAccumulator(features.cols);
  gram.addRows(features.data);
  return gram.toMatrix();
}

export function addDense(a: Matrix, b: Matrix): Matrix {
  return matrix(
    a.rows,
    a.cols,
    a.data.map((value, i) => value + b.data[i]!),
  );
}

export function randomProblem(options: RandomProblemOptions): RandomProblem {
  const { seed, m, n, ranks, rows, ridge, preserve } = options;
  const base = randomMatrix(seed, m, n);
  const deltas = ranks.map((rank, i): LowRank | null =>
    rank === null
      ? null
      : lowRank(randomMatrix(seed + 10 + i, m, rank), randomMatrix(seed + 20 + i, rank, n)),
  );
  const concepts = deltas.map((delta, i) => ({
    features: randomMatrix(seed + 30 + i, rows, n),
    weight: delta === null ? base : addDense(base, toDense(delta)),
  }));
  const preservedFeatures = preserve === null ? null : randomMatrix(seed + 40, preserve.rows, n);
  const input: InputProblem = {
    inputName: 'block.to_q',
    inputSize: n,
    grams: concepts.map(({ features }) => gramOf(features)),
    preserve:
      preserve === null || preservedFeatures === null
        ? null
        : { gram: gramOf(preservedFeatures), weight: preserve.weight },
    ridge,
  };
  return {
    layer: { layerName: 'block.to_q', outputSize: m, deltas, input },
    base,
    concepts,
    preservedFeatures,
  };
}
