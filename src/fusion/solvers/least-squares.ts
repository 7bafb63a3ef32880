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
 * Where all features are given as rows, and fewer of them than inputs, the same is solved on the side of the samples:
 * with the rows (those of preservation times √β′) stacked to X [N, n],
 *
 *   ΔW* = [B_1 … B_k] · T (X Xᵀ + λ I)⁻¹ X,   T [Σ r_i, N] = A_i X_iᵀ in the columns of concept i, 0 elsewhere
 *
 * Source: normal equations of the least-squares objective of Mix-of-Show's gradient fusion (arXiv:2305.18292).
 * Differs from its implementation, which minimises by L-BFGS over stored features.
 */
import { NumericalError, ShapeError } from '../../errors.ts';
import {
  type CholeskyFactor,
  choleskySteps,
  conditionLowerBound,
  diagonalOf,
  solveRowsSteps as solveCholeskyRows,
} from '../../linalg/cholesky.ts';
import { type AsyncCholeskyFactor, choleskyAsync } from '../../linalg/cholesky-async.ts';
import { eighSteps } from '../../linalg/eigh.ts';
import { type GramTerm, gramSize, toDenseGram } from '../../linalg/gram.ts';
import { type LowRank, lowRank, sum, zeroDelta } from '../../linalg/low-rank.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { assertFinite, type Matrix, matrix, splitRows, stackRows } from '../../linalg/matrix.ts';
import { multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import { inOneGo, Pace, type Steps } from '../../pace.ts';
import { type Equations, equationsOf, type Side } from './equations.ts';
import type { AbsoluteWeights } from './normal-matrix.ts';
import { checkLayer, type InputProblem, type LayerProblem } from './problem.ts';

/** With ridge 0, eigenvalues of M below this share of the largest count as zero. */
export const MINIMUM_NORM_CUTOFF = 1e-10;
/** The same where Gram matrices were rounded to float32: some roundings of their largest numbers. */
const ROUNDED_CUTOFF = 2 ** -22;

/** The normal equations of one input, factorised. Holds one n × n array, or one N × N array on the side of the samples. */
export interface NormalSystem extends AbsoluteWeights {
  readonly input: InputProblem;
  readonly side: Side;
  /** Directions solved for: n or N, or with ridge 0 the number of eigenvalues above the cut-off. */
  readonly rank: number;
  /** Condition number of the matrix on those directions: exact with ridge 0, otherwise a lower bound from the Cholesky factor. */
  readonly condition: number;
  /** A_i G_i M⁻¹ of all concepts, stacked [Σ r_i, n], for A_i [r_i, n]; `null` where a concept has none. */
  rightFactors(downs: readonly (Matrix | null)[]): Steps<Matrix>;
  /** The same for several layers at once, large products by the engine that factorised the system, if one did. */
  rightFactorsOf(layers: readonly (readonly (Matrix | null)[])[], pace: Pace): Promise<Matrix[]>;
}

/** B K⁻¹ for rows B. */
type SolveRows = (b: Matrix) => Steps<Matrix>;

/**
 * Build and factorise the normal equations. Ridge > 0: Cholesky. Ridge 0: eigenvalues, so that directions without energy
 * get no change (the minimum-norm optimum), at several times the cost; the same where a ridge is lost in the rounding of
 * the matrix.
 *
 * @throws {ShapeError|UsageError} see `checkInput`
 * @throws {NumericalError} naming the input, if features are all zero or not finite
 */
export function factoriseInput(input: InputProblem): NormalSystem {
  return inOneGo(factoriseInputSteps(input));
}

/** `factoriseInput` in steps. */
export function* factoriseInputSteps(input: InputProblem): Steps<NormalSystem> {
  const equations = equationsOf(input);
  const symmetric = yield* equations.symmetric();
  try {
    return system(input, equations, yield* factorised(symmetric, input));
  } catch (cause) {
    throw explained(input.inputName, cause);
  }
}

/** By plain loops; a dense matrix is overwritten. */
function* factorised(symmetric: Matrix, input: InputProblem): Steps<Factorised> {
  if (input.ridge === 0) return yield* minimumNorm(symmetric, input);
  const diagonal = diagonalOf(symmetric);
  try {
    return triangular(yield* choleskySteps(symmetric));
  } catch (cause) {
    if (!isIndefinite(cause)) throw cause;
    return yield* minimumNorm(unspoilt(symmetric, diagonal), input);
  }
}

/** Below this many rows the plain loops are as fast as handing products to the graph runtime. */
const ENGINE_FROM_ROWS = 96;

/**
 * The same as `factoriseInput`, with the bulk of a large Cholesky factorisation (ridge > 0) done by `engine`.
 *
 * @param fromRows  size from which the engine is used; default 96
 * @throws as `factoriseInput`, and whatever the engine throws
 */
export async function factoriseInputWith(
  engine: MatmulEngine,
  input: InputProblem,
  fromRows: number = ENGINE_FROM_ROWS,
  pace: Pace = new Pace(),
): Promise<NormalSystem> {
  const equations = equationsOf(input);
  const symmetric = await equations.symmetricWith(engine, pace);
  let factor: AsyncCholeskyFactor;
  try {
    if (input.ridge === 0 || gramSize(symmetric) < fromRows) {
      return system(input, equations, await pace.run(factorised(toDenseGram(symmetric), input)));
    }
    try {
      factor = await choleskyAsync(symmetric, engine, input.memory);
    } catch (cause) {
      if (!isIndefinite(cause)) throw cause;
      return system(input, equations, await pace.run(minimumNorm(toDenseGram(symmetric), input)));
    }
  } catch (cause) {
    throw explained(input.inputName, cause);
  }
  const { size, condition } = factor;
  let lower: CholeskyFactor | undefined;
  const solve: SolveRows = (b) => {
    lower ??= factor.toLower();
    return solveCholeskyRows(lower, b);
  };
  return {
    ...system(input, equations, { rank: size, condition, solve }),
    rightFactorsOf: async (layers) => {
      const targets = await equations.targetsWith(engine, layers);
      const rows = await factor.solveRows(stackRows(size, targets));
      return splitRows(
        await equations.answerWith(engine, rows),
        targets.map(({ rows: count }) => count),
      );
    },
  };
}

interface Factorised {
  readonly rank: number;
  readonly condition: number;
  readonly solve: SolveRows;
}

function system(input: InputProblem, equations: Equations, factorised: Factorised): NormalSystem {
  const { lambda, beta, side, targets, answer } = equations;
  const { rank, condition, solve } = factorised;
  const solveDowns: NormalSystem['rightFactors'] = function* (downs) {
    return yield* answer(yield* solve(yield* targets(downs)));
  };
  return {
    ...{ input, lambda, beta, side, rank, condition, rightFactors: solveDowns },
    rightFactorsOf: async (layers, pace) => {
      const factors: Matrix[] = [];
      for (const downs of layers) factors.push(await pace.run(solveDowns(downs)));
      return factors;
    },
  };
}

function triangular(factor: CholeskyFactor): Factorised {
  return {
    rank: factor.size,
    condition: conditionLowerBound(factor),
    solve: (b) => solveCholeskyRows(factor, b),
  };
}

/** Change only in directions whose eigenvalue stands out of the rounding. */
function* minimumNorm(symmetric: Matrix, { grams, preserve }: InputProblem): Steps<Factorised> {
  const n = symmetric.rows;
  const { values, vectors } = yield* eighSteps(symmetric);
  const largest = values[n - 1]!;
  const rounded = [...grams, ...(preserve === null ? [] : [preserve.gram])].some(isRounded);
  const cutoff = rounded ? ROUNDED_CUTOFF : MINIMUM_NORM_CUTOFF;
  const first = values.findIndex((value) => value > cutoff * largest);
  const rank = n - first;
  const kept = matrix(rank, n, vectors.data.slice(first * n));
  const solve: SolveRows = function* (b) {
    const coordinates = yield* multiplyTransposedSteps(b, kept);
    for (let i = 0; i < coordinates.data.length; i++) coordinates.data[i]! /= values[first + (i % rank)]!;
    return yield* multiplySteps(coordinates, kept);
  };
  return { rank, condition: largest / values[first]!, solve };
}

const isRounded = (gram: GramTerm): boolean => 'packed' in gram && gram.packed instanceof Float32Array;

/** Whether a factorisation stopped at a pivot that should have been positive, and not at NaN. */
const isIndefinite = (cause: unknown): boolean =>
  cause instanceof NumericalError && Number.isFinite(cause.value);

/** A matrix whose lower triangle a factorisation has overwritten, from the upper one. */
function unspoilt(a: Matrix, diagonal: Float64Array): Matrix {
  const n = a.rows;
  for (let i = 0; i < n; i++) {
    a.data[i * n + i] = diagonal[i]!;
    for (let j = 0; j < i; j++) a.data[i * n + j] = a.data[j * n + i]!;
  }
  return a;
}

function explained(inputName: string, cause: unknown): unknown {
  if (!(cause instanceof NumericalError)) return cause;
  return new NumericalError(`normal equations: ${cause.message}; look for damaged weights or features`, {
    layer: inputName,
    cause,
    value: cause.value,
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
  const downs = downsOf(system, layer);
  return solution(layer, downs.some((down) => down !== null) ? inOneGo(system.rightFactors(downs)) : null);
}

/**
 * `solveLayer` for layers that read one input, all at once: what the engine multiplies best is tall.
 * @throws as `solveLayer`
 */
export async function solveLayers(
  system: NormalSystem,
  layers: readonly LayerProblem[],
  pace: Pace = new Pace(),
): Promise<LowRank[]> {
  const rights = await system.rightFactorsOf(
    layers.map((layer) => downsOf(system, layer)),
    pace,
  );
  return layers.map((layer, l) => solution(layer, rights[l]!));
}

/** A_i of a layer's concepts. */
function downsOf(system: NormalSystem, layer: LayerProblem): (Matrix | null)[] {
  checkLayer(layer);
  if (system.input !== layer.input) {
    throw new ShapeError(
      `${layer.layerName}: expected the normal equations of ${layer.input.inputName}, got those of ${system.input.inputName}`,
    );
  }
  return layer.deltas.map((delta) => delta?.down ?? null);
}

/** [B_1 … B_k] · right; no change where no concept trains the layer. */
function solution({ layerName, outputSize, deltas, input }: LayerProblem, right: Matrix | null): LowRank {
  const trained = deltas.filter((delta) => delta !== null);
  if (trained.length === 0 || right === null) return zeroDelta(outputSize, input.inputSize);
  const solution = lowRank(sum(trained).up, right);
  try {
    assertFinite('fused up factor', solution.up.data);
    assertFinite('fused down factor', solution.down.data);
  } catch (cause) {
    throw explained(layerName, cause);
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
