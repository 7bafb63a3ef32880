/**
 * What layers with one input kept of each concept, all at once: the numbers of retention.ts, and those of feature-blind
 * merges beside them. With all factors of the layers stacked to S [R, n], every wanted number follows from the small cores
 * S G_i Sᵀ and Fᵀ F, so each Gram matrix is multiplied once, by the engine where it is large.
 */

import { gramTrace } from '../../linalg/gram.ts';
import { frobeniusNormSteps, type LowRank, rankOf } from '../../linalg/low-rank.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, matrix, splitRows, stackRows, transpose } from '../../linalg/matrix.ts';
import { GramProducts, multiplyTransposedWith } from '../../linalg/products-async.ts';
import { numbersOf } from '../../linalg/reused-memory.ts';
import { Pace, type Steps } from '../../pace.ts';
import type { LayerProblem } from '../solvers/problem.ts';
import type { ConceptRetention, LayerRetention } from './retention.ts';

export interface MeasuredLayer extends LayerRetention {
  /** Σ_i ‖X_i (ΔW* − ΔW_i)ᵀ‖² / (N · m), as `fusionLoss`. */
  readonly loss: number;
  /** ‖X_i (ΔW − ΔW_i)ᵀ‖² per concept for the average and the sum of the deltas. */
  readonly baselines: { readonly average: readonly number[]; readonly sum: readonly number[] };
}

/**
 * Measure fused layers that read the same input.
 *
 * @param layers  all with the same `input`
 * @param fused   ΔW* per layer
 * @param rows    N: feature rows of all concepts behind the input
 * @returns the same numbers as `measureRetention` and `fusionLoss`, up to rounding of float64
 */
export async function measureLayers(
  layers: readonly LayerProblem[],
  fused: readonly LowRank[],
  rows: number,
  engine: MatmulEngine | null,
  pace: Pace = new Pace(),
): Promise<MeasuredLayer[]> {
  const { grams, preserve, memory } = layers[0]!.input;
  const blocks: LayerBlocks[] = [];
  for (const [l, layer] of layers.entries()) blocks.push(await LayerBlocks.of(layer, fused[l]!, engine));
  const stacked = stackRows(
    layers[0]!.input.inputSize,
    blocks.map(({ downs }) => downs),
  );
  const gramProducts = new GramProducts(engine, memory);
  const into = matrix(stacked.rows, stacked.cols, numbersOf(memory, stacked.data.length));
  for (const [i, gram] of grams.entries()) {
    const product = await gramProducts.multiply(stacked, gram, into);
    const products = splitRows(
      product,
      blocks.map(({ downs }) => downs.rows),
    );
    for (const [l, block] of blocks.entries()) await block.seen(i, products[l]!);
  }
  if (preserve !== null) {
    const changes = stackRows(
      layers[0]!.input.inputSize,
      fused.map(({ down }) => down),
    );
    const product = await gramProducts.multiply(changes, preserve.gram);
    const energy = gramTrace(preserve.gram);
    const products = splitRows(product, fused.map(rankOf));
    for (const [l, block] of blocks.entries()) await block.preserved(products[l]!, energy);
  }
  const measured: MeasuredLayer[] = [];
  for (const block of blocks) measured.push(await pace.run(block.finish(rows)));
  return measured;
}

/** A sum below this share of its terms has lost more digits than a norm may. */
const CANCELLED = 1e-5;

/** One layer's factors side by side, and what has been seen of them. */
class LayerBlocks {
  /** [A_1; …; A_k; V*], of the concepts that train the layer. */
  readonly downs: Matrix;
  readonly #layer: LayerProblem;
  readonly #fused: LowRank;
  /** Uᵀ U of [B_1 … B_k, U*]. */
  readonly #upGram: Matrix;
  /** A Aᵀ of the downs. */
  readonly #downGram: Matrix;
  /** First row of each concept's factors, and one behind the last: that of the fused ones. */
  readonly #starts: readonly number[];
  readonly #crosstalk: number[][] = [];
  readonly #residuals: number[] = [];
  readonly #average: number[] = [];
  readonly #sum: number[] = [];
  readonly #engine: MatmulEngine | null;
  #preservedChange: number | null = null;

  static async of(layer: LayerProblem, fused: LowRank, engine: MatmulEngine | null): Promise<LayerBlocks> {
    const all = [...layer.deltas.flatMap((delta) => (delta === null ? [] : [delta])), fused];
    const downs = stackRows(
      layer.input.inputSize,
      all.map(({ down }) => down),
    );
    const ups = stackRows(
      layer.outputSize,
      all.map(({ up }) => transpose(up)),
    );
    const upGram = await multiplyTransposedWith(engine, ups, ups);
    return new LayerBlocks(
      layer,
      fused,
      downs,
      upGram,
      await multiplyTransposedWith(engine, downs, downs),
      engine,
    );
  }

  private constructor(
    layer: LayerProblem,
    fused: LowRank,
    downs: Matrix,
    upGram: Matrix,
    downGram: Matrix,
    engine: MatmulEngine | null,
  ) {
    this.#layer = layer;
    this.#fused = fused;
    this.downs = downs;
    this.#upGram = upGram;
    this.#downGram = downGram;
    this.#engine = engine;
    const starts = [0];
    for (const delta of layer.deltas) starts.push(starts.at(-1)! + (delta === null ? 0 : rankOf(delta)));
    this.#starts = starts;
  }

  /** @param product S G_i of the layer's own rows of S */
  async seen(concept: number, product: Matrix): Promise<void> {
    const core = await multiplyTransposedWith(this.#engine, product, this.downs);
    const size = this.downs.rows;
    const count = this.#layer.deltas.length;
    // Everything below is ‖X (Σ_b w_b ΔW_b)ᵀ‖² for weights over the blocks: concepts first, the fused change last.
    const effects: number[][] = Array.from({ length: count + 1 }, () => []);
    for (let a = 0; a <= count; a++) {
      for (let b = 0; b <= count; b++) {
        let value = 0;
        for (let p = this.#starts[a]!; p < (this.#starts[a + 1] ?? size); p++) {
          for (let q = this.#starts[b]!; q < (this.#starts[b + 1] ?? size); q++) {
            value += core.data[p * size + q]! * this.#upGram.data[p * size + q]!;
          }
        }
        effects[a]![b] = value;
      }
    }
    const norm = (weights: readonly number[]): number => {
      let total = 0;
      weights.forEach((x, a) => {
        weights.forEach((y, b) => {
          total += x * y * effects[a]![b]!;
        });
      });
      return Math.max(0, total);
    };
    const own = (b: number): number => (b === concept ? 1 : 0);
    const concepts = this.#layer.deltas.map((_, b) => b);
    this.#crosstalk[concept] = concepts.map((b) => Math.sqrt(Math.max(0, effects[b]![b]!)));
    this.#residuals[concept] = norm([...concepts.map((b) => -own(b)), 1]);
    this.#average[concept] = norm([...concepts.map((b) => 1 / count - own(b)), 0]);
    this.#sum[concept] = norm([...concepts.map((b) => 1 - own(b)), 0]);
  }

  /** @param product V* G_reg */
  async preserved(product: Matrix, energy: number): Promise<void> {
    const core = await multiplyTransposedWith(this.#engine, product, this.#fused.down);
    const first = this.#starts.at(-1)!;
    const size = this.downs.rows;
    let value = 0;
    for (let p = 0; p < core.rows; p++) {
      for (let q = 0; q < core.cols; q++) {
        value += core.data[p * core.cols + q]! * this.#upGram.data[(first + p) * size + first + q]!;
      }
    }
    this.#preservedChange = energy > 0 ? Math.sqrt(Math.max(0, value) / energy) : 0;
  }

  /** ‖ΔW‖_F of one block, from the Gram matrices of its factors; where these cancel out, as `frobeniusNorm`. */
  *#norm(block: number, delta: LowRank): Steps<number> {
    const size = this.downs.rows;
    const [begin, end] = [this.#starts[block]!, this.#starts[block + 1] ?? size];
    let [squared, terms] = [0, 0];
    for (let p = begin; p < end; p++) {
      for (let q = begin; q < end; q++) {
        const term = this.#upGram.data[p * size + q]! * this.#downGram.data[p * size + q]!;
        squared += term;
        terms += Math.abs(term);
      }
    }
    return squared > CANCELLED * terms ? Math.sqrt(squared) : yield* frobeniusNormSteps(delta);
  }

  *finish(rows: number): Steps<MeasuredLayer> {
    const { layerName, deltas, outputSize } = this.#layer;
    const concepts = deltas.map((_, i): ConceptRetention => {
      const ownEffect = this.#crosstalk[i]![i]! ** 2;
      const residual = this.#residuals[i]!;
      return { ownEffect, residual, retention: ownEffect > 0 ? 1 - residual / ownEffect : null };
    });
    const changeNorm = yield* this.#norm(deltas.length, this.#fused);
    let largest = 0;
    for (const [i, delta] of deltas.entries()) {
      if (delta !== null) largest = Math.max(largest, yield* this.#norm(i, delta));
    }
    return {
      layerName,
      concepts,
      crosstalk: this.#crosstalk,
      preservedChange: this.#preservedChange,
      changeNorm,
      relativeChange: largest > 0 ? changeNorm / largest : null,
      loss: this.#residuals.reduce((a, b) => a + b, 0) / (rows * outputSize),
      baselines: { average: this.#average, sum: this.#sum },
    };
  }
}
