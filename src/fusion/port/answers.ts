/**
 * Keys and values that answer under shared embeddings as they did under one per layer.
 *
 * With x the text features under the shared embedding, f those under layer l's own (both by the text encoder with the concept's
 * changes), and W, ΔW of a layer's to_k or to_v,
 *
 *   ΔW* = argmin_Δ  Σ ‖(W + Δ) x − (W + ΔW) f‖²  +  β Σ ‖(W + Δ) x_c − W f_c‖²  +  λ ‖Δ‖²
 *
 * over all positions of templates with the words in several places, and of captions c that are to be read as the base reads them
 * (f_c by the base's own text encoder). The normal matrix M = X Xᵀ + β X_c X_cᵀ + λ I is that of all layers, since the shared
 * embedding is. With M = L Lᵀ and B the right-hand side, the best answer of rank r in the norm of the features is that of the
 * r largest singular values of B L⁻ᵀ, times L⁻¹.
 */
import { readFloat64 } from '../../formats/raw-tensor.ts';
import { type CholeskyFactor, solveLowerRowsSteps, solveUpperRowsSteps } from '../../linalg/cholesky.ts';
import { type LowRank, lowRank, toDense } from '../../linalg/low-rank.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, matrix, transpose } from '../../linalg/matrix.ts';
import { svdSteps } from '../../linalg/svd.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { Layer, LayerId } from '../../models/families/layer-table.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { Pace, Steps } from '../../pace.ts';
import type { Progress } from '../../progress.ts';
import { combined, energy } from './matrix-terms.ts';
import { absoluteWeights, type CaptionTerms, normalFactor } from './normal-equations.ts';
import type { PortOptions } from './port-options.ts';
import type { PortTexts, TemplateRows } from './port-texts.ts';

/** What a layer kept, on templates that the answer has not seen. */
export interface PortedLayer {
  readonly id: LayerId;
  /** 1 − ‖(W + Δ) x − y‖² / ‖W x − y‖² by the answer. */
  readonly kept: number;
  /** The same by the concept's own ΔW under the shared embedding. */
  readonly keptByOwn: number;
}

export interface Answers {
  readonly deltas: ReadonlyMap<LayerId, LowRank>;
  readonly layers: readonly PortedLayer[];
}

export interface AnswersRequest {
  readonly base: Checkpoint;
  /** With the concepts' own keys and values. */
  readonly deltas: ModelDeltas;
  readonly texts: PortTexts;
  /** Features under the shared embeddings. */
  readonly shared: TemplateRows;
  readonly captions: CaptionTerms;
  readonly options: PortOptions;
  readonly pace: Pace;
  readonly multiply: MatmulEngine;
  /** Told of each cross-attention. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** @throws {NumericalError} if features are not finite */
export async function solveAnswers(request: AnswersRequest): Promise<Answers> {
  const { base, deltas, texts, shared, captions, options, pace, multiply, onProgress } = request;
  const { known: x, unseen: xUnseen } = shared;
  const gram = await multiply(transpose(x), x);
  const weights = absoluteWeights(options, gram, captions);
  const factor = (await normalFactor(gram, captions, weights, multiply)).toLower();
  /** β Σ (f_c − x_c) x_cᵀ */
  const captionGap = combined(captions.cross, weights.beta, captions.gram, -weights.beta);
  const answers = new Map<LayerId, LowRank>();
  const layers: PortedLayer[] = [];
  const { contextCount } = base.parts.layers;
  for (let index = 0; index < contextCount; index++) {
    const { known: f, unseen: fUnseen } = await texts.native(index);
    const cross = await multiply(transpose(f), x);
    for (const layer of contextLayers(base, index)) {
      const weight = weightOf(base, layer);
      const ownDense = denseOf(deltas, layer);
      // B = W (C − G) + ΔW C + β W Σ (f_c − x_c) x_cᵀ
      const gap = combined(combined(cross, 1, gram, -1), 1, captionGap, 1);
      const right = combined(await multiply(weight, gap), 1, await multiply(ownDense, cross), 1);
      const answer = await pace.run(bestOfRank(factor, right, options.rank));
      answers.set(layer.id, answer);
      // What has to be added to W x, row by row: W and ΔW from the right.
      const wanted = combined(
        await multiply(combined(fUnseen, 1, xUnseen, -1), transpose(weight)),
        1,
        await multiply(fUnseen, transpose(ownDense)),
        1,
      );
      const kept = async (change: Matrix): Promise<number> => {
        const given = await multiply(xUnseen, transpose(change));
        return 1 - energy(combined(wanted, 1, given, -1)) / energy(wanted);
      };
      layers.push({ id: layer.id, kept: await kept(toDense(answer)), keptByOwn: await kept(ownDense) });
      await pace.turn();
    }
    onProgress?.({ done: index + 1, total: contextCount });
  }
  return { deltas: answers, layers };
}

/** Keys and values of one cross-attention. */
export function contextLayers({ parts }: Checkpoint, index: number): Layer[] {
  return [...parts.layers].filter(({ role, contextIndex }) => role === 'context' && contextIndex === index);
}

/** W [m, n] of a layer of the UNet. */
export function weightOf(base: Checkpoint, { layerName, m, n }: Layer): Matrix {
  return matrix(m, n, readFloat64(base.parts.unet.weights.get(`${layerName}.weight`, [m, n])!));
}

/** ΔW [m, n]; zeros where nothing changes the layer. */
export function denseOf(deltas: ModelDeltas, { id, m, n }: Layer): Matrix {
  const own = deltas.get(id);
  return own === undefined ? matrix(m, n) : toDense(own);
}

/**
 * Of all Δ of a rank the one nearest to B M⁻¹ in the norm of the features, ‖(Δ − B M⁻¹) L‖.
 * @param factor L of M
 * @param right  B [m, n]
 */
function* bestOfRank(factor: CholeskyFactor, right: Matrix, most: number): Steps<LowRank> {
  const { u, singularValues, v } = yield* svdSteps(yield* solveLowerRowsSteps(factor, right));
  const rank = Math.min(most, singularValues.length);
  const [up, down] = [matrix(right.rows, rank), matrix(rank, right.cols)];
  for (let k = 0; k < rank; k++) {
    for (let i = 0; i < up.rows; i++) up.data[i * rank + k] = u.data[i * u.cols + k]! * singularValues[k]!;
    for (let j = 0; j < down.cols; j++) down.data[k * down.cols + j] = v.data[j * v.cols + k]!;
  }
  return lowRank(up, yield* solveUpperRowsSteps(factor, down));
}
