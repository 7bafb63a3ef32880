/**
 * Baselines that look at weights only: ΔW = Σ_i w_i ΔW_i. What they lose is what fusion by features is there to keep,
 * so every report compares with them.
 */
import { ShapeError, UsageError } from '../../errors.ts';
import { type LowRank, scale, sum, zeroDelta } from '../../linalg/low-rank.ts';
import { checkLayer, type LayerProblem } from './problem.ts';

/** How far weights of an average may be from adding up to one: rounding of what people type. */
const ROUNDING = 1e-6;

/**
 * Σ strength_i ΔW_i: what a runtime does that applies several LoRAs at once.
 *
 * @param strengths  one per concept, any finite number; `null`: 1 each
 * @returns rank Σ r_i over the concepts that train the layer
 * @throws {ShapeError} if deltas or strengths do not fit
 * @throws {UsageError} if a strength is not finite
 */
export function weightedSum(layer: LayerProblem, strengths: readonly number[] | null): LowRank {
  checkLayer(layer);
  const { layerName, outputSize, deltas, input } = layer;
  const weights = strengths ?? deltas.map(() => 1);
  if (weights.length !== deltas.length) {
    throw new ShapeError(
      `${layerName}: expected ${deltas.length} weights, one per concept, got ${weights.length}`,
    );
  }
  weights.forEach((weight, i) => {
    if (!Number.isFinite(weight)) {
      throw new UsageError(`weight of concept ${i + 1}: expected a finite number, got ${weight}`);
    }
  });
  const parts = deltas.flatMap((delta, i) => (delta === null ? [] : [scale(delta, weights[i]!)]));
  return parts.length === 0 ? zeroDelta(outputSize, input.inputSize) : sum(parts);
}

/**
 * Σ w_i W_i − W₀ with Σ w_i = 1: the average of the concepts' weights. A concept that does not train the layer counts
 * with the base weight.
 *
 * @param weights  one per concept, ≥ 0, adding up to 1; `null`: equal ones
 * @throws {ShapeError} if deltas or weights do not fit
 * @throws {UsageError} if a weight is negative or not finite, or they do not add up to 1
 */
export function average(layer: LayerProblem, weights: readonly number[] | null): LowRank {
  const count = layer.deltas.length;
  const shares = weights ?? layer.deltas.map(() => 1 / count);
  const total = shares.reduce((add, weight) => add + weight, 0);
  if (shares.some((weight) => weight < 0) || !(Math.abs(total - 1) <= ROUNDING)) {
    throw new UsageError(
      `weights of an average: expected numbers of 0 or more that add up to 1, got ${shares.join(' + ')} = ${total}; ` +
        'for other strengths use the method sum',
    );
  }
  return weightedSum(layer, shares);
}
