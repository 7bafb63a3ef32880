/** The matrix of the objective's quadratic part, M = Σ_j G_j + β′ G_reg + λ I, and its weights in absolute terms. */
import { NumericalError } from '../../errors.ts';
import { addGramSteps, gramTrace } from '../../linalg/gram.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import type { Steps } from '../../pace.ts';
import { checkInput, type InputProblem } from './problem.ts';

/** λ and β′ of an input, in the units of its Gram matrices. */
export interface AbsoluteWeights {
  /** λ = ridge · tr(Σ G_j) / n. */
  readonly lambda: number;
  /** β′ = weight · tr(Σ G_j) / tr(G_reg); 0 without preservation. */
  readonly beta: number;
}

/**
 * Check an input and make its relative weights absolute.
 *
 * @throws {ShapeError|UsageError} see `checkInput`
 * @throws {NumericalError} naming the input, if the features are all zero or not finite
 */
export function absoluteWeights(input: InputProblem): AbsoluteWeights {
  checkInput(input);
  const { inputName, inputSize, grams, preserve, ridge } = input;
  const energy = grams.reduce((total, gram) => total + gramTrace(gram), 0);
  if (!(energy > 0) || !Number.isFinite(energy)) {
    throw new NumericalError(
      `sum of the concepts' Gram matrices: expected a positive finite trace, got ${energy}; ` +
        'are the features all zero or not finite?',
      { layer: inputName, value: energy },
    );
  }
  const lambda = (ridge * energy) / inputSize;
  if (preserve === null || preserve.weight === 0) return { lambda, beta: 0 };
  const preserved = gramTrace(preserve.gram);
  const beta = (preserve.weight * energy) / preserved;
  if (!(preserved > 0) || !Number.isFinite(beta)) {
    throw new NumericalError(
      `preservation Gram matrix: expected a positive finite trace, got ${preserved}; set its weight to 0 to do without`,
      { layer: inputName, value: preserved },
    );
  }
  return { lambda, beta };
}

/** M [n, n], dense. */
export function* normalMatrix(input: InputProblem, { lambda, beta }: AbsoluteWeights): Steps<Matrix> {
  const { inputSize: n, grams, preserve } = input;
  const normal = matrix(n, n);
  for (const gram of grams) yield* addGramSteps(normal, gram, 1);
  if (preserve !== null && beta > 0) yield* addGramSteps(normal, preserve.gram, beta);
  for (let i = 0; i < n; i++) normal.data[i * n + i]! += lambda;
  return normal;
}
