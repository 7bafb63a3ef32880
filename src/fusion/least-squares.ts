/**
 * Fusion of linear layers in closed form, from Gram matrices and factors. The objective (see problem.ts) is quadratic;
 * setting its gradient to zero gives
 *
 *   ΔW* = Σ_i B_i (A_i G_i) M⁻¹,   M = Σ_j G_j + β′ G_reg + λ I,   ΔW_i = B_i A_i
 *
 *   λ  = ridge · tr(Σ G_j) / n              ridge relative to the mean diagonal
 *   β′ = weight · tr(Σ G_j) / tr(G_reg)     preservation relative to the concepts' energy
 *
 * so ΔW* = [B_1 … B_k] · (stacked right factors) has rank ≤ Σ r_i: the answer is a LoRA, exactly.
 * M is factorised once per input and serves every layer that reads it.
 *
 * Source: normal equations of the least-squares objective of Mix-of-Show's gradient fusion (arXiv:2305.18292).
 * Differs from its implementation, which minimises by L-BFGS over stored features.
 */
import { NumericalError, ShapeError } from '../errors.ts';
import { cholesky, conditionLowerBound, solveRows as solveCholeskyRows } from '../linalg/cholesky.ts';
import { eigh } from '../linalg/eigh.ts';
import { addGramTo, gramTrace, multiplyByGram } from '../linalg/gram.ts';
import { type LowRank, lowRank, sum, zeroDelta } from '../linalg/low-rank.ts';
import { assertFinite, type Matrix, matrix } from '../linalg/matrix.ts';
import { multiply, multiplyTransposed } from '../linalg/products.ts';
import { checkInput, checkLayer, type InputProblem, type LayerProblem } from './problem.ts';

/** With ridge 0, eigenvalues of M below this share of the largest count as zero. */
export const MINIMUM_NORM_CUTOFF = 1e-10;

/** M of one input, factorised. Holds one n × n array. */
export interface NormalSystem {
  readonly input: InputProblem;
  /** λ in absolute terms. */
  readonly lambda: number;
  /** β′ in absolute terms; 0 without preservation. */
  readonly beta: number;
  /** Directions solved for: n, or with ridge 0 the number of eigenvalues above the cut-off. */
  readonly rank: number;
  /** Condition number of M on those directions: exact with ridge 0, otherwise a lower bound from the Cholesky factor. */
  readonly condition: number;
  /** B M⁻¹ [k, n] for rows B [k, n]; with ridge 0 the pseudo-inverse. */
  solveRows(b: Matrix): Matrix;
}

/**
 * Build and factorise M. Ridge > 0: Cholesky. Ridge 0: eigenvalues, so that directions without energy get no change
 * (the minimum-norm optimum), at several times the cost.
 *
 * @throws {ShapeError|UsageError} see `checkInput`
 * @throws {NumericalError} naming the input, if features are all zero, not finite, or M is not positive definite
 */
export function factoriseInput(input: InputProblem): NormalSystem {
  checkInput(input);
  const { inputName, inputSize: n, grams, preserve, ridge } = input;
  const energy = grams.reduce((total, gram) => total + gramTrace(gram), 0);
  if (!(energy > 0) || !Number.isFinite(energy)) {
    throw new NumericalError(
      `sum of the concepts' Gram matrices: expected a positive finite trace, got ${energy}; ` +
        'are the features all zero or not finite?',
      { layer: inputName, value: energy },
    );
  }
  const normal = matrix(n, n);
  for (const gram of grams) addGramTo(normal, gram, 1);
  let beta = 0;
  if (preserve !== null && preserve.weight > 0) {
    const preserved = gramTrace(preserve.gram);
    beta = (preserve.weight * energy) / preserved;
    if (!(preserved > 0) || !Number.isFinite(beta)) {
      throw new NumericalError(
        `preservation Gram matrix: expected a positive finite trace, got ${preserved}; set its weight to 0 to do without`,
        { layer: inputName, value: preserved },
      );
    }
    addGramTo(normal, preserve.gram, beta);
  }
  const lambda = (ridge * energy) / n;
  if (ridge === 0) return { input, lambda, beta, ...minimumNorm(inputName, normal) };
  for (let i = 0; i < n; i++) normal.data[i * n + i]! += lambda;
  return { input, lambda, beta, ...positiveDefinite(inputName, normal) };
}

type Factorised = Pick<NormalSystem, 'rank' | 'condition' | 'solveRows'>;

function positiveDefinite(inputName: string, normal: Matrix): Factorised {
  try {
    const factor = cholesky(normal);
    return {
      rank: factor.size,
      condition: conditionLowerBound(factor),
      solveRows: (b) => solveCholeskyRows(factor, b),
    };
  } catch (cause) {
    throw explained(inputName, cause, 'raise the ridge, or set it to 0 for the minimum-norm change');
  }
}

function minimumNorm(inputName: string, normal: Matrix): Factorised {
  try {
    const n = normal.rows;
    const { values, vectors } = eigh(normal);
    const largest = values[n - 1]!;
    const first = values.findIndex((value) => value > MINIMUM_NORM_CUTOFF * largest);
    const rank = n - first;
    const kept = matrix(rank, n, vectors.data.slice(first * n));
    const solve = (b: Matrix): Matrix => {
      const coordinates = multiplyTransposed(b, kept);
      for (let i = 0; i < coordinates.data.length; i++) coordinates.data[i]! /= values[first + (i % rank)]!;
      return multiply(coordinates, kept);
    };
    return { rank, condition: largest / values[first]!, solveRows: solve };
  } catch (cause) {
    throw explained(inputName, cause, 'raise the ridge above 0');
  }
}

function explained(inputName: string, cause: unknown, hint: string): unknown {
  if (!(cause instanceof NumericalError)) return cause;
  return new NumericalError(`normal equations: ${cause.message}; ${hint}`, {
    layer: inputName,
    cause,
    ...(cause.value === undefined ? {} : { value: cause.value }),
  });
}

/**
 * ΔW* [m, n] of one layer, factored: up = [B_1 … B_k], down = the stacked A_i G_i M⁻¹. Rank Σ r_i over the concepts
 * that train the layer; rank 0 if none does.
 *
 * @param system  the factorised input that `layer` reads
 * @throws {ShapeError} if the deltas do not fit, or `system` belongs to another input
 * @throws {NumericalError} naming the layer, if the result is not finite
 */
export function solveLayer(system: NormalSystem, layer: LayerProblem): LowRank {
  checkLayer(layer);
  const { layerName, outputSize, deltas, input } = layer;
  if (system.input !== input) {
    throw new ShapeError(
      `${layerName}: expected the normal equations of ${input.inputName}, got those of ${system.input.inputName}`,
    );
  }
  const trained = deltas.flatMap((delta, i) => {
    return delta === null ? [] : [lowRank(delta.up, multiplyByGram(delta.down, input.grams[i]!))];
  });
  if (trained.length === 0) return zeroDelta(outputSize, input.inputSize);
  const { up, down } = sum(trained);
  const solution = lowRank(up, system.solveRows(down));
  try {
    assertFinite('fused up factor', solution.up.data);
    assertFinite('fused down factor', solution.down.data);
  } catch (cause) {
    throw explained(layerName, cause, 'look for damaged weights or features, or raise the ridge');
  }
  return solution;
}

/**
 * Factorise and solve one layer on its own. For layers that share an input, call `factoriseInput` once and
 * `solveLayer` for each.
 *
 * @throws {ShapeError|UsageError|NumericalError} as those two
 */
export function leastSquares(layer: LayerProblem): LowRank {
  return solveLayer(factoriseInput(layer.input), layer);
}
