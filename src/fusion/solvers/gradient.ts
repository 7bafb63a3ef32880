/**
 * Mix-of-Show's gradient fusion of one layer: the objective of problem.ts minimised by L-BFGS from the base weight,
 * stopped after a fixed number of iterations. Works on Gram matrices, so that its cost does not depend on the number
 * of feature rows:
 *
 *   f(ΔW) = [ tr(ΔW M ΔWᵀ) − 2 tr(ΔW Rᵀ) + c ] / (N m),   ∇f = 2 (ΔW M − R) / (N m)
 *   R = Σ_i B_i A_i G_i,   c = Σ_i ‖X_i ΔW_iᵀ‖²,   M = Σ_j G_j + β′ G_reg + λ I
 *
 * All gradients at ΔW = [B_1 … B_k]·C have the form [B_1 … B_k]·(…), and ΔW starts at zero: no step ever leaves the
 * span of the up factors. With Q an orthonormal basis of it, ΔW = Q C, and every inner product that L-BFGS takes of
 * ΔW's is the same of C's. So the iteration runs on C [k, n], k ≤ Σ r_i, exactly, and its result is a LoRA.
 *
 * Source: Mix-of-Show (arXiv:2305.18292), gradient fusion; `update_quasi_newton` in the authors' gradient_fusion.py.
 * Differs from it: float64 instead of float32, whose rounding both ends its line searches early and leaves the span.
 */
import { NumericalError, UsageError } from '../../errors.ts';
import { multiplyByGramSteps } from '../../linalg/gram.ts';
import { featureNormSquaredSteps, type LowRank, lowRank, sum, zeroDelta } from '../../linalg/low-rank.ts';
import { type Matrix, matrix, stackRows } from '../../linalg/matrix.ts';
import { dot, multiply, multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import { qrSteps } from '../../linalg/qr.ts';
import { type Evaluation, lbfgsSteps, type StopReason } from '../../optim/lbfgs.ts';
import { inOneGo, type Steps } from '../../pace.ts';
import type { PerStage } from '../stage.ts';
import { absoluteWeights, normalMatrix } from './normal-matrix.ts';
import { checkLayer, type InputProblem, type LayerProblem } from './problem.ts';

/** The published counts: 500 for layers that read text (text encoder, K and V), 50 for the UNet's others. */
export const PUBLISHED_ITERATIONS: PerStage = { text: 500, cross: 500, spatial: 50 };

export interface GradientOptions {
  /** N = Σ N_i: feature rows behind the Gram matrices. The loss is a mean over rows and outputs, and the solver's tolerances are absolute. */
  readonly rows: number;
  /** L-BFGS iterations at most; ≥ 1. Example: 50. */
  readonly iterations: number;
  /** Pairs that L-BFGS remembers; ≥ 1. Default 25, as published. */
  readonly history?: number;
}

export interface GradientSolution {
  readonly delta: LowRank;
  /** f at the base, then after each iteration. */
  readonly losses: readonly number[];
  readonly evaluations: number;
  /** `null` if no concept trains the layer: there was nothing to minimise. */
  readonly stopped: StopReason | null;
}

/** The elements of Q C [m, n]. */
type Expand = (c: Float64Array) => Float64Array;

/** The reference's gradient and change tolerance. */
const TOLERANCE = 1e-16;

/** M of one input, for all layers that read it. */
export interface GradientSystem {
  readonly input: InputProblem;
  readonly normal: Matrix;
}

/** Sum up M. @throws {ShapeError|UsageError|NumericalError} see `absoluteWeights` */
export function* gradientSystem(input: InputProblem): Steps<GradientSystem> {
  return { input, normal: yield* normalMatrix(input, absoluteWeights(input)) };
}

/**
 * Minimise one layer's objective. `system` is that of the layer's input.
 *
 * @returns ΔW of the lowest loss seen, of rank ≤ min(m, Σ r_i)
 * @throws {ShapeError} if the deltas do not fit
 * @throws {UsageError} if a count is not a whole number ≥ 1
 * @throws {NumericalError} naming the layer, if a loss or gradient is not finite
 */
export function solveByGradient(
  system: GradientSystem,
  layer: LayerProblem,
  options: GradientOptions,
): GradientSolution {
  return inOneGo(solveByGradientSteps(system, layer, options));
}

/** `solveByGradient` in steps: the published counts take seconds a layer. */
export function* solveByGradientSteps(
  { input, normal }: GradientSystem,
  layer: LayerProblem,
  { rows, iterations, history = 25 }: GradientOptions,
): Steps<GradientSolution> {
  checkLayer(layer);
  const { layerName, outputSize: m, deltas } = layer;
  const n = input.inputSize;
  if (!Number.isInteger(rows) || rows < 1) {
    throw new UsageError(`${layerName}: feature rows: expected a whole number of 1 or more, got ${rows}`);
  }
  const trained = deltas.filter((delta) => delta !== null);
  if (trained.length === 0) {
    return { delta: zeroDelta(m, n), losses: [0], evaluations: 0, stopped: null };
  }
  const { q, r } = yield* qrSteps(sum(trained).up);
  const k = q.cols;
  const products: Matrix[] = [];
  for (const [i, delta] of deltas.entries()) {
    if (delta !== null) products.push(yield* multiplyByGramSteps(delta.down, input.grams[i]!));
  }
  /** QᵀR. */
  const target = (yield* multiplySteps(r, stackRows(n, products))).data;
  let constant = 0;
  for (const [i, delta] of deltas.entries()) {
    constant += delta === null ? 0 : yield* featureNormSquaredSteps(delta, input.grams[i]!);
  }
  const size = rows * m;
  const evaluate = function* (c: Float64Array): Steps<Evaluation> {
    const gradient = (yield* multiplyTransposedSteps(matrix(k, n, c), normal)).data;
    const quadratic = dot(gradient, 0, c, 0, c.length);
    const linear = dot(target, 0, c, 0, c.length);
    for (let i = 0; i < gradient.length; i++) gradient[i] = (2 * (gradient[i]! - target[i]!)) / size;
    return { loss: (quadratic - 2 * linear + constant) / size, gradient };
  };
  const expanded: Expand = (c) => multiply(q, matrix(k, n, c)).data;
  try {
    const { x, losses, evaluations, stopped } = yield* lbfgsSteps(
      {
        evaluate,
        isWithin: (c, bound) => isWithin(c, bound, m * n, expanded),
        sumAbs: (c) => expanded(c).reduce((total, value) => total + Math.abs(value), 0),
      },
      new Float64Array(k * n),
      { maxIterations: iterations, history, toleranceGradient: TOLERANCE, toleranceChange: TOLERANCE },
    );
    return { delta: lowRank(q, matrix(k, n, x)), losses, evaluations, stopped };
  } catch (cause) {
    if (!(cause instanceof NumericalError)) throw cause;
    throw new NumericalError(`${cause.message}; look for damaged weights or features`, {
      layer: layerName,
      cause,
    });
  }
}

/** Whether max|vᵢ| ≤ bound for v = Q c, of which ‖c‖ is the norm: v is written out only where the norm does not tell. */
function isWithin(c: Float64Array, bound: number, elements: number, expanded: Expand): boolean {
  if (dot(c, 0, c, 0, c.length) > elements * bound * bound) return false;
  return expanded(c).every((value) => Math.abs(value) <= bound);
}
