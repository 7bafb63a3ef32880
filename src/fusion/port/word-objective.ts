/**
 * How well keys and values can answer under given features of the templates: the answers' objective at its own optimum, and its
 * gradient by the features. With W̃ and W̃' = W̃ + ΔW̃ the keys and values of a cross-attention, each divided by the root of what
 * the base alone leaves there, and V its answer,
 *
 *   J(x) = min_V  Σ_l  Σ ‖V x − W̃' f‖²  +  β Σ ‖V x_c − W̃ f_c‖²  +  λ ‖V − W̃‖²
 *
 * V = R M⁻¹ with R = W̃' Σ f xᵀ + W̃ (β Σ f_c x_cᵀ + λ I), so that J = c − Σ_l ⟨R, V⟩ with c of the targets alone; and, V being the
 * best there is, dJ/dx is that with V as it is, 2 Vᵀ (V x − W̃' f). β and λ are those of the features that it begins with.
 */
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, matrix, transpose } from '../../linalg/matrix.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { Pace } from '../../pace.ts';
import { contextLayers, denseOf, weightOf } from './answers.ts';
import { addDiagonal, combined, energy, inner } from './matrix-terms.ts';
import {
  type AbsoluteWeights,
  absoluteWeights,
  type CaptionTerms,
  normalFactor,
} from './normal-equations.ts';
import type { PortOptions } from './port-options.ts';
import type { PortTexts, TemplateRows } from './port-texts.ts';

export interface ObjectiveParts {
  readonly base: Checkpoint;
  /** With the concepts' own keys and values. */
  readonly deltas: ModelDeltas;
  readonly texts: PortTexts;
  readonly captions: CaptionTerms;
  readonly options: PortOptions;
  readonly pace: Pace;
  readonly multiply: MatmulEngine;
}

export interface ObjectiveValue {
  /** J − c. */
  readonly loss: number;
  /** By the features of the templates that are learnt from. */
  readonly gradient: Matrix;
  /** Error on templates that are held out, as a share of the base's, mean over keys and values of all layers. */
  readonly heldOut: number;
}

/** One cross-attention. Features of all places lie in memory: 8 bytes a number. */
interface Place {
  /** W̃, keys above values, [Σ m, D]. */
  readonly weight: Matrix;
  /** W̃' */
  readonly own: Matrix;
  readonly features: TemplateRows;
  /** What makes each row of the held-out errors a share of the base's, [Σ m]. */
  readonly shares: Float64Array;
}

export class WordObjective {
  readonly #parts: ObjectiveParts;
  readonly #weights: AbsoluteWeights;
  readonly #places: readonly Place[];

  private constructor(parts: ObjectiveParts, weights: AbsoluteWeights, places: readonly Place[]) {
    this.#parts = parts;
    this.#weights = weights;
    this.#places = places;
  }

  /** @param start features under the embeddings that the words begin with */
  static async create(parts: ObjectiveParts, start: TemplateRows): Promise<WordObjective> {
    const { base, deltas, texts, captions, options, pace, multiply } = parts;
    const { contextCount } = base.parts.layers;
    const weights = absoluteWeights(options, await multiply(transpose(start.known), start.known), captions);
    const places: Place[] = [];
    for (let index = 0; index < contextCount; index++) {
      const features = await texts.native(index);
      const stack: { weight: Matrix; own: Matrix; share: number }[] = [];
      const layers = contextLayers(base, index);
      for (const layer of layers) {
        const weight = weightOf(base, layer);
        const own = combined(weight, 1, denseOf(deltas, layer), 1);
        const left = async (kind: keyof TemplateRows): Promise<number> => {
          const wanted = await multiply(features[kind], transpose(own));
          return energy(combined(wanted, 1, await multiply(start[kind], transpose(weight)), -1));
        };
        const scale = 1 / Math.sqrt(layers.length * contextCount * (await left('known')));
        const share = 1 / (layers.length * contextCount * (await left('unseen')) * scale ** 2);
        stack.push({ weight: combined(weight, scale, own, 0), own: combined(own, scale, own, 0), share });
        await pace.turn();
      }
      places.push({
        weight: stacked(stack.map(({ weight }) => weight)),
        own: stacked(stack.map(({ own }) => own)),
        features,
        shares: Float64Array.from(stack.flatMap(({ share, own }) => Array<number>(own.rows).fill(share))),
      });
    }
    return new WordObjective(parts, weights, places);
  }

  /** @throws {NumericalError} if features are not finite */
  async at({ known: x, unseen }: TemplateRows): Promise<ObjectiveValue> {
    const { captions, pace, multiply } = this.#parts;
    const { beta, lambda } = this.#weights;
    const gram = await multiply(transpose(x), x);
    const factor = await normalFactor(gram, captions, this.#weights, multiply);
    const kept = combined(matrix(gram.rows, gram.cols), 1, captions.cross, beta);
    addDiagonal(kept, lambda);
    let loss = 0;
    let heldOut = 0;
    /** Σ VᵀV, and Σ f (W̃'ᵀ V) row by row. */
    let squares = matrix(gram.rows, gram.cols);
    let targets = matrix(x.rows, x.cols);
    for (const { weight, own, features, shares } of this.#places) {
      const cross = await multiply(transpose(features.known), x);
      const right = combined(await multiply(own, cross), 1, await multiply(weight, kept), 1);
      const answer = await factor.solveRows(right);
      loss -= inner(right, answer);
      squares = combined(squares, 1, await multiply(transpose(answer), answer), 1);
      const back = await multiply(transpose(own), answer);
      targets = combined(targets, 1, await multiply(features.known, back), 1);
      heldOut += errorOf(
        await multiply(answer, transpose(unseen)),
        await multiply(own, transpose(features.unseen)),
        shares,
      );
      await pace.turn();
    }
    return { loss, gradient: combined(await multiply(x, squares), 2, targets, -2), heldOut };
  }
}

/** Σ_i share_i Σ_j (a_ij − b_ij)² */
function errorOf(a: Matrix, b: Matrix, shares: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.rows; i++) {
    let row = 0;
    for (let k = i * a.cols; k < (i + 1) * a.cols; k++) row += (a.data[k]! - b.data[k]!) ** 2;
    sum += shares[i]! * row;
  }
  return sum;
}

function stacked(parts: readonly Matrix[]): Matrix {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const all = matrix(rows, parts[0]!.cols);
  let at = 0;
  for (const { data } of parts) {
    all.data.set(data, at);
    at += data.length;
  }
  return all;
}
