/**
 * What a fused layer kept of each concept and who disturbs whom, from Gram matrices and factors alone: every number is
 * a trace tr(ΔW G ΔWᵀ) = ‖X ΔWᵀ‖²_F of a difference of factors. Works for the result of any solver.
 */
import { type GramTerm, gramTrace } from '../../linalg/gram.ts';
import { featureNormSquared, frobeniusNorm, type LowRank, subtract } from '../../linalg/low-rank.ts';
import { checkLayer, type LayerProblem } from '../solvers/problem.ts';

/** One concept in one layer. Effects are squared norms and may be added over layers before dividing. */
export interface ConceptRetention {
  /** ‖X_i ΔW_iᵀ‖²_F: what the concept's own delta does to its features; 0 where it does not train the layer. */
  readonly ownEffect: number;
  /** ‖X_i (ΔW* − ΔW_i)ᵀ‖²_F: how far the fused layer is from that. */
  readonly residual: number;
  /**
   * Share of the effect that survived, 1 − residual / ownEffect: 1 all of it, 0 no better than the base, negative worse.
   * `null` if the concept has no effect here.
   */
  readonly retention: number | null;
}

export interface LayerRetention {
  readonly layerName: string;
  /** In the order of the problem. */
  readonly concepts: readonly ConceptRetention[];
  /** `crosstalk[i][j]` = ‖X_i ΔW_jᵀ‖_F: what concept j's delta does to concept i's features. */
  readonly crosstalk: readonly (readonly number[])[];
  /** ‖X_reg ΔW*ᵀ‖_F / √tr(G_reg): change of the answers to the preserved features, per unit of feature; `null` without them. */
  readonly preservedChange: number | null;
  /** ‖ΔW*‖_F. */
  readonly changeNorm: number;
  /** ‖ΔW*‖_F over the largest ‖ΔW_i‖_F: far above 1 is the alarm of an ill-posed layer. `null` if all deltas are zero. */
  readonly relativeChange: number | null;
}

/**
 * Measure a fused change ΔW* [m, n] against the layer's problem.
 *
 * @throws {ShapeError} if deltas, Gram matrices or `fused` do not fit
 */
export function measureRetention(layer: LayerProblem, fused: LowRank): LayerRetention {
  checkLayer(layer);
  const { deltas, input } = layer;
  const crosstalk = input.grams.map((gram) =>
    deltas.map((delta) => (delta === null ? 0 : Math.sqrt(featureNormSquared(delta, gram)))),
  );
  const concepts = input.grams.map((gram, i) => {
    const ownEffect = crosstalk[i]![i]! ** 2;
    const residual = residualOf(deltas[i]!, fused, gram);
    return { ownEffect, residual, retention: ownEffect > 0 ? 1 - residual / ownEffect : null };
  });
  const changeNorm = frobeniusNorm(fused);
  const largest = Math.max(0, ...deltas.map((delta) => (delta === null ? 0 : frobeniusNorm(delta))));
  return {
    layerName: layer.layerName,
    concepts,
    crosstalk,
    preservedChange: input.preserve === null ? null : relativeEffect(fused, input.preserve.gram),
    changeNorm,
    relativeChange: largest > 0 ? changeNorm / largest : null,
  };
}

/**
 * f = Σ_i ‖X_i (ΔW* − ΔW_i)ᵀ‖²_F / (N · m): the mean squared error over all feature rows and outputs, without
 * preservation and ridge. The loss that Mix-of-Show's gradient fusion reports.
 *
 * @param rows  N = Σ N_i, feature rows behind the Gram matrices
 * @throws {ShapeError} if deltas, Gram matrices or `fused` do not fit
 */
export function fusionLoss(layer: LayerProblem, fused: LowRank, rows: number): number {
  checkLayer(layer);
  const total = layer.input.grams.reduce(
    (sum, gram, i) => sum + residualOf(layer.deltas[i]!, fused, gram),
    0,
  );
  return total / (rows * layer.outputSize);
}

function residualOf(delta: LowRank | null, fused: LowRank, gram: GramTerm): number {
  return featureNormSquared(delta === null ? fused : subtract(fused, delta), gram);
}

function relativeEffect(fused: LowRank, gram: GramTerm): number {
  const energy = gramTrace(gram);
  return energy > 0 ? Math.sqrt(featureNormSquared(fused, gram) / energy) : 0;
}
