/**
 * One layer's fusion problem, in terms of the change ΔW = W − W₀ alone:
 *
 *   minimise over ΔW   Σ_i ‖X_i (ΔW − ΔW_i)ᵀ‖²_F + β′ ‖X_reg ΔWᵀ‖²_F + λ ‖ΔW‖²_F
 *
 * X_i [N_i, n] are the layer's input features under concept i and appear only as Gram matrices G_i = X_iᵀ X_i; the base
 * weight W₀ does not appear at all. Layers that read the same input (q, k, v of one attention) share one `InputProblem`.
 * Every solver takes these types.
 */
import { ShapeError, UsageError } from '../../errors.ts';
import { type GramTerm, gramSize } from '../../linalg/gram.ts';
import type { LowRank } from '../../linalg/low-rank.ts';
import type { ReusedMemory } from '../../linalg/reused-memory.ts';

/** Prior preservation: features on which the base model's answers are to stay. */
export interface Preservation {
  /** G_reg [n, n], or the rows behind it. */
  readonly gram: GramTerm;
  /** β ≥ 0, relative: 1 weighs these features as much as all concepts together (equal traces). Example: 0.3. */
  readonly weight: number;
}

/** What layers with a common input share. */
export interface InputProblem {
  /** For messages: usually the name of the first layer that reads this input. */
  readonly inputName: string;
  /** n: width of the input. */
  readonly inputSize: number;
  /**
   * G_i [n, n], or the rows X_i behind it, one per concept, in the run's order of concepts; those that do not train a
   * layer too. At least one.
   */
  readonly grams: readonly GramTerm[];
  /** `null`: the published objective, without preservation. */
  readonly preserve: Preservation | null;
  /** λ in units of the mean diagonal of Σ G_i; ≥ 0. 0 asks for the minimum-norm optimum. Example: 1e-2. */
  readonly ridge: number;
  /** Where what is computed of it may lie; all of that is void once the next input is taken up. */
  readonly memory?: ReusedMemory;
}

/** One linear layer, or 1×1 convolution, to fuse. */
export interface LayerProblem {
  /** Dotted module path without `.weight`. */
  readonly layerName: string;
  /** m: outputs of the layer. */
  readonly outputSize: number;
  /** ΔW_i [m, n] with strength and scale inside, one per concept; `null` where a concept does not train this layer. */
  readonly deltas: readonly (LowRank | null)[];
  readonly input: InputProblem;
}

/**
 * Check sizes and parameters of an input problem.
 *
 * @throws {ShapeError} if a Gram matrix is not [n, n], or there is none
 * @throws {UsageError} if ridge or preservation weight is negative or not finite
 */
export function checkInput(input: InputProblem): void {
  const { inputName, inputSize: n, grams, preserve, ridge } = input;
  if (grams.length === 0) throw new ShapeError(`${inputName}: expected a Gram matrix per concept, got none`);
  const all = preserve === null ? grams : [...grams, preserve.gram];
  all.forEach((gram, i) => {
    const isSquare = !('rows' in gram) || gram.rows === gram.cols;
    if (gramSize(gram) !== n || !isSquare) {
      const which = i < grams.length ? `Gram matrix of concept ${i + 1}` : 'preservation Gram matrix';
      const got = 'rows' in gram ? [gram.rows, gram.cols] : [gramSize(gram), gramSize(gram)];
      throw new ShapeError(`${inputName}: ${which}: expected [${n}, ${n}], got [${got.join(', ')}]`);
    }
  });
  checkWeight(inputName, 'ridge', ridge);
  if (preserve !== null) checkWeight(inputName, 'preservation weight', preserve.weight);
}

/**
 * Check that the deltas fit the layer and its input.
 *
 * @throws {ShapeError} if their number is not the number of Gram matrices, or a delta is not [m, n]
 */
export function checkLayer(layer: LayerProblem): void {
  const { layerName, outputSize: m, deltas, input } = layer;
  if (deltas.length !== input.grams.length) {
    throw new ShapeError(
      `${layerName}: expected ${input.grams.length} deltas (or null), one per Gram matrix, got ${deltas.length}`,
    );
  }
  deltas.forEach((delta, i) => {
    if (delta !== null && (delta.up.rows !== m || delta.down.cols !== input.inputSize)) {
      throw new ShapeError(
        `${layerName}: delta of concept ${i + 1}: expected [${m}, ${input.inputSize}], ` +
          `got [${delta.up.rows}, ${delta.down.cols}]; trained on another base model?`,
      );
    }
  });
}

function checkWeight(where: string, what: string, value: number): void {
  if (!Number.isFinite(value) || value < 0) {
    throw new UsageError(`${where}: ${what}: expected a finite number of 0 or more, got ${value}`);
  }
}
