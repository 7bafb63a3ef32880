/**
 * The space that texts and pictures share, and the way out of it: which direction a mix of embeddings has, and which pooled
 * state of the text encoder would have been projected there.
 */
import { MismatchError, MissingWeightError, UsageError } from '../errors.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import { matrix } from '../linalg/matrix.ts';
import { pseudoInverseSteps } from '../linalg/pseudo-inverse.ts';
import type { ClipModel } from '../models/clip/clip-model.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import { Pace } from '../pace.ts';

/** From pooled states of width D to embeddings of P numbers, and back. */
export interface EmbeddingSpace {
  /** D. */
  readonly width: number;
  /** P. */
  readonly projectionDim: number;
  /** W, [P, D]. */
  readonly projection: Float32Array;
  /** W⁻¹, or W⁺ where W is not square, [D, P]. */
  readonly inverse: Float32Array;
  /** Length of an embedding of text before it is normalised, as the training prompts have it on average. */
  readonly length: number;
  /** Pooled state of the empty prompt, [D]. */
  readonly origin: Float32Array;
}

/** An embedding and how much of it is in a mix. */
export interface WeightedEmbedding {
  /** [P], of length 1. */
  readonly embedding: Float32Array;
  readonly weight: number;
}

/**
 * The projection of a whole CLIP model and its inverse.
 * @param encoder whose states are to be projected
 * @throws {MismatchError} if the model's text tower has another width or depth; {NumericalError} if its projection has not full rank
 */
export async function projectionOf(
  clip: ClipModel,
  { hiddenSize: width, numLayers }: Pick<ClipTextConfig, 'hiddenSize' | 'numLayers'>,
  signal?: AbortSignal,
): Promise<Pick<EmbeddingSpace, 'width' | 'projectionDim' | 'projection' | 'inverse'>> {
  const { projectionDim, text, weights, path } = clip;
  if (text.hiddenSize !== width) {
    throw new MismatchError(
      `${path}: expected a CLIP model whose text states have ${width} numbers, as the base's, got ${text.hiddenSize}`,
    );
  }
  if (text.numLayers !== numLayers) {
    // Stable Diffusion 2.x leaves the last layer out: what it reads is not what CLIP projects.
    throw new MismatchError(
      `${path}: expected a CLIP model with ${numLayers} text layers, as the base's, got ${text.numLayers}`,
    );
  }
  const name = 'text_projection.weight';
  const raw = weights.get(name, [projectionDim, width]);
  if (raw === undefined) throw new MissingWeightError(path, `no weight "${name}"`, { tensor: name });
  if (raw.shape.join() !== [projectionDim, width].join()) {
    throw new MismatchError(
      `${path}: ${name}: expected [${projectionDim}, ${width}], got [${raw.shape.join(', ')}]`,
    );
  }
  const projection = readFloat32(raw).slice();
  const inverted = await new Pace(signal).run(
    pseudoInverseSteps(matrix(projectionDim, width, Float64Array.from(projection))),
  );
  return { width, projectionDim, projection, inverse: Float32Array.from(inverted.data) };
}

/** W z of a pooled state z [D], not normalised: [P]. */
export function projected(
  { projection, width, projectionDim }: EmbeddingSpace,
  pooled: Float32Array,
): Float32Array {
  return product(projection, projectionDim, width, pooled);
}

/** v / ‖v‖. */
export function unit(vector: Float32Array): Float32Array {
  const length = lengthOf(vector);
  return vector.map((value) => value / length);
}

export function lengthOf(vector: Float32Array): number {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}

/**
 * What a deprojector reads, [D]: W⁻¹ (length · u) − z₀, for an embedding u of length 1 and the empty prompt's pooled state z₀.
 */
export function takenBack(space: EmbeddingSpace, embedding: Float32Array): Float32Array {
  const { inverse, width, projectionDim, length, origin } = space;
  const state = product(inverse, width, projectionDim, embedding);
  return state.map((value, i) => length * value - origin[i]!);
}

/** A sum this short of unit vectors has no direction that anybody meant. */
const SHORTEST_MEAN = 1e-3;

/**
 * The mean of embeddings by their weights, brought to length 1. Weights may be negative; only their ratios count.
 * @throws {UsageError} for no embedding, weights that are not finite, and embeddings that cancel each other
 */
export function meanEmbedding(parts: readonly WeightedEmbedding[]): Float32Array {
  if (parts.length === 0) throw new UsageError('embed: expected a text or a picture, got none');
  const bad = parts.find(({ weight }) => !Number.isFinite(weight));
  if (bad !== undefined) throw new UsageError(`embed: expected finite weights, got ${bad.weight}`);
  const total = parts.reduce((sum, { weight }) => sum + Math.abs(weight), 0);
  const mean = new Float32Array(parts[0]!.embedding.length);
  for (const { embedding, weight } of parts) {
    for (let i = 0; i < mean.length; i++) mean[i]! += (weight / total) * embedding[i]!;
  }
  if (!(lengthOf(mean) > SHORTEST_MEAN)) {
    throw new UsageError('embed: the embeddings cancel each other by these weights; no direction is left');
  }
  return unit(mean);
}

/** A [m, n] · x [n], summed in float64. */
function product(a: Float32Array, m: number, n: number, x: Float32Array): Float32Array {
  const result = new Float32Array(m);
  for (let i = 0; i < m; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += a[i * n + j]! * x[j]!;
    result[i] = sum;
  }
  return result;
}
