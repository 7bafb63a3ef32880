/**
 * Custom Diffusion's closed form for K and V: hit the concepts' targets exactly, and change the answers to
 * regularisation captions as little as possible.
 *
 *   min ‖C_reg (W − W₀)ᵀ‖²_F   subject to   C Wᵀ = V,   V = C_i W_iᵀ stacked over the concepts
 *   W = W₀ + (Vᵀ − W₀ Cᵀ) (D Cᵀ)⁻¹ D,   D = C (C_regᵀ C_reg)⁻¹
 *
 * On the problem type of problem.ts: the concepts' terms are their token rows C_i (as rows, not Gram matrices), the
 * preservation term holds the captions. It is the limit of the ridge problem for concepts that outweigh everything else.
 * As Vᵀ − W₀ Cᵀ = [B_1 … B_k]·T with T = A_i C_iᵀ in the columns of concept i, the change is a LoRA of rank ≤ Σ r_i.
 *
 * Computed by C L⁻ᵀ = (QR)ᵀ with G_reg = L Lᵀ, so that D Cᵀ = RᵀR is never squared: ΔW = [B]·T R⁻¹ Qᵀ L⁻¹.
 *
 * Source: Custom Diffusion (arXiv:2212.04488), eq. 4 and 5; `gdupdateWexact` in the authors' src/composenW.py.
 * Differs from it: an optional ridge for captions that do not span the text features, where its LU divides by zero.
 */
import { NumericalError, UsageError } from '../../errors.ts';
import {
  type CholeskyFactor,
  choleskySteps,
  solveLowerRowsSteps,
  solveUpperRowsSteps,
} from '../../linalg/cholesky.ts';
import { addGramSteps, gramTrace } from '../../linalg/gram.ts';
import { type LowRank, lowRank, sum, zeroDelta } from '../../linalg/low-rank.ts';
import { assertFinite, type Matrix, matrix, stackRows, transpose } from '../../linalg/matrix.ts';
import { multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import { qrSteps } from '../../linalg/qr.ts';
import { inOneGo, type Steps } from '../../pace.ts';
import { checkInput, checkLayer, type InputProblem, type LayerProblem } from './problem.ts';

/** The constraints of one input, factorised; serves K and V of one cross-attention. */
export interface ConstrainedSystem {
  readonly input: InputProblem;
  /** λ added to the captions' Gram matrix, in its own units. */
  readonly lambda: number;
  /** k: constraints, without the repeated ones. */
  readonly constraints: number;
  /** Token rows left out because an earlier row equals them, number for number. */
  readonly repeated: number;
  /** Rows of C_i that count, per concept. */
  readonly rows: readonly Matrix[];
  /** (D Cᵀ)⁻¹ D [k, n]: turns targets into a change. */
  readonly response: Matrix;
}

/** A constraint direction this much shorter than its row, once the earlier rows are taken out of it, is dependent. */
const DEPENDENT = 1e-10;

/**
 * Factorise the constraints of one input. `ridge` of the input counts in units of the mean diagonal of G_reg; the
 * preservation weight has no influence. As in the reference, a token row that occurred before (in any concept) is left out.
 *
 * @throws {UsageError} if a concept's features are no rows, or there are no regularisation captions
 * @throws {ShapeError} see `checkInput`
 * @throws {NumericalError} naming the input, if the captions' Gram matrix is singular or constraints depend on each other
 */
export function constrainInput(input: InputProblem): ConstrainedSystem {
  return inOneGo(constrainInputSteps(input));
}

/** `constrainInput` in steps. */
export function* constrainInputSteps(input: InputProblem): Steps<ConstrainedSystem> {
  checkInput(input);
  const { inputName, inputSize: n, grams, preserve, ridge } = input;
  if (preserve === null) {
    throw new UsageError(
      `${inputName}: custom-diffusion: expected regularisation captions, got none; turn preservation on`,
    );
  }
  const seen = new Set<string>();
  let repeated = 0;
  const rows = grams.map((gram, i) => {
    if (!('features' in gram)) {
      throw new UsageError(
        `${inputName}: custom-diffusion: expected the token rows of concept ${i + 1}, got a Gram matrix; ` +
          'collect its features as rows',
      );
    }
    const { features } = gram;
    const fresh: number[] = [];
    for (let r = 0; r < features.rows; r++) {
      const key = features.data.subarray(r * n, (r + 1) * n).join();
      if (seen.has(key)) repeated++;
      else fresh.push(r);
      seen.add(key);
    }
    return pickRows(features, fresh);
  });
  const lambda = (ridge * gramTrace(preserve.gram)) / n;
  const factor = yield* factoriseCaptions(input, lambda);
  const c = stackRows(n, rows);
  const { q, r } = yield* qrSteps(transpose(yield* solveLowerRowsSteps(factor, c)));
  assertIndependent(inputName, r, c.rows);
  // (D Cᵀ)⁻¹ D = R⁻¹ Qᵀ L⁻¹.
  const response = yield* solveUpperRowsSteps(factor, backSubstitute(r, transpose(q)));
  return { input, lambda, constraints: c.rows, repeated, rows, response };
}

/**
 * ΔW [m, n] of one layer, factored, of rank Σ r_i over the concepts that train it (0 if none does).
 *
 * @throws {ShapeError} if the deltas do not fit
 * @throws {NumericalError} naming the layer, if the result is not finite
 */
export function solveConstrained(system: ConstrainedSystem, layer: LayerProblem): LowRank {
  return inOneGo(solveConstrainedSteps(system, layer));
}

/** `solveConstrained` in steps. */
export function* solveConstrainedSteps(system: ConstrainedSystem, layer: LayerProblem): Steps<LowRank> {
  checkLayer(layer);
  const { layerName, outputSize, deltas } = layer;
  const trained = deltas.filter((delta) => delta !== null);
  if (trained.length === 0) return zeroDelta(outputSize, system.input.inputSize);
  const { up } = sum(trained);
  const targets = matrix(up.cols, system.constraints);
  let row = 0;
  let column = 0;
  for (const [i, delta] of deltas.entries()) {
    const rows = system.rows[i]!;
    if (delta !== null) {
      const block = yield* multiplyTransposedSteps(delta.down, rows);
      for (let r = 0; r < block.rows; r++, row++) {
        const from = r * block.cols;
        targets.data.set(block.data.subarray(from, from + block.cols), row * system.constraints + column);
      }
    }
    column += rows.rows;
  }
  const solution = lowRank(up, yield* multiplySteps(targets, system.response));
  try {
    assertFinite('fused up factor', solution.up.data);
    assertFinite('fused down factor', solution.down.data);
  } catch (cause) {
    throw new NumericalError(`${(cause as Error).message}; look for damaged weights or features`, {
      layer: layerName,
      cause,
    });
  }
  return solution;
}

function* factoriseCaptions(
  { inputName, inputSize: n, preserve }: InputProblem,
  lambda: number,
): Steps<CholeskyFactor> {
  const gram = matrix(n, n);
  yield* addGramSteps(gram, preserve!.gram, 1);
  for (let i = 0; i < n; i++) gram.data[i * n + i]! += lambda;
  try {
    return yield* choleskySteps(gram);
  } catch (cause) {
    if (!(cause instanceof NumericalError)) throw cause;
    throw new NumericalError(
      `Gram matrix of the regularisation captions: ${cause.message}; raise the ridge, or add captions`,
      { layer: inputName, cause, value: cause.value },
    );
  }
}

/** Column j of R is constraint j; what its diagonal holds is new in it. */
function assertIndependent(inputName: string, r: Matrix, constraints: number): void {
  for (let j = 0; j < constraints; j++) {
    let norm = 0;
    for (let i = 0; i <= Math.min(j, r.rows - 1); i++) norm = Math.hypot(norm, r.data[i * r.cols + j]!);
    const fresh = j < r.rows ? Math.abs(r.data[j * r.cols + j]!) : 0;
    if (!(fresh > DEPENDENT * norm)) {
      throw new NumericalError(
        `custom-diffusion: token row ${j + 1} of ${constraints}: expected one that does not follow from the earlier ones, ` +
          `got one of which ${fresh.toExponential(2)} of ${norm.toExponential(2)} is new; use fewer prompts, or solver normal`,
        { layer: inputName, value: fresh },
      );
    }
  }
}

/** R⁻¹ B [k, n] for upper triangular R [k, k]. */
function backSubstitute(r: Matrix, b: Matrix): Matrix {
  const k = r.rows;
  const n = b.cols;
  const x = matrix(k, n, Float64Array.from(b.data));
  for (let i = k - 1; i >= 0; i--) {
    for (let j = 0; j < n; j++) {
      let value = x.data[i * n + j]!;
      for (let l = i + 1; l < k; l++) value -= r.data[i * k + l]! * x.data[l * n + j]!;
      x.data[i * n + j] = value / r.data[i * k + i]!;
    }
  }
  return x;
}

function pickRows(a: Matrix, picked: readonly number[]): Matrix {
  const result = matrix(picked.length, a.cols);
  picked.forEach((row, i) => {
    result.data.set(a.data.subarray(row * a.cols, (row + 1) * a.cols), i * a.cols);
  });
  return result;
}
