/** Pictures and texts to normalised CLIP embeddings, in batches of one session. */
import { ShapeError } from '../../errors.ts';
import type { Picture } from '../../formats/picture.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
} from '../../runtime/execution-context.ts';
import type { LoadedGraph } from '../../runtime/runtime.ts';
import { float32 } from '../../tensor/tensor.ts';
import type { ClipModel } from './clip-model.ts';
import { encodeText } from './encode-text.ts';
import { buildTextProjection } from './projection.ts';
import { pooledPosition, TokenEmbeddings } from './text-encoder.ts';
import { buildVisionEncoder } from './vision-encoder.ts';
import { writePixelValues } from './vision-preprocessor.ts';

/** Rows of one width; each has length 1 unless it says otherwise. */
export interface Embeddings {
  readonly count: number;
  readonly width: number;
  /** [count, width] */
  readonly data: Float32Array;
}

export interface ClipEncoderOptions extends ExecutionRequest {
  /** Pictures per run; default 32. */
  readonly batch?: number;
}

/** Dispose it when done: it holds the vision tower's session. */
export class ClipEncoder {
  readonly model: ClipModel;
  readonly #batch: number;
  readonly #execution: ExecutionContext;
  readonly #tokens: TokenEmbeddings;
  #vision: LoadedGraph | null = null;

  constructor(model: ClipModel, { batch = 32, ...execution }: ClipEncoderOptions = {}) {
    this.model = model;
    this.#batch = batch;
    this.#execution = executionContext(execution);
    this.#tokens = new TokenEmbeddings(model.weights, model.text);
  }

  /**
   * Image embeddings of pictures of any size, in their order, each of length 1.
   * @throws {ShapeError} if the preprocessor's pictures are not the size the vision tower expects
   */
  async pictures(pictures: readonly Picture[]): Promise<Embeddings> {
    return normalised(await this.pictureFeatures(pictures));
  }

  /** As `pictures`, before normalising. */
  async pictureFeatures(pictures: readonly Picture[]): Promise<Embeddings> {
    const { projectionDim, vision, preprocessor } = this.model;
    const size = vision.imageSize;
    const elements = 3 * size * size;
    const result = new Float32Array(pictures.length * projectionDim);
    const session = await this.#visionSession();
    for (let start = 0; start < pictures.length; start += this.#batch) {
      const pixels = float32([this.#batch, 3, size, size]);
      // The last batch is filled up with zeros, whose embeddings are dropped.
      const part = pictures.slice(start, start + this.#batch);
      part.forEach((picture, i) => {
        writePixelValues(picture, preprocessor, pixels.data, i * elements);
      });
      const { image_embeds } = await session.run({ pixel_values: pixels }, ['image_embeds']);
      const rows = (image_embeds!.data as Float32Array).subarray(0, part.length * projectionDim);
      result.set(rows, start * projectionDim);
    }
    return { count: pictures.length, width: projectionDim, data: result };
  }

  /** Text embeddings, in the order of the prompts, each of length 1. Prompts are cut to the model's positions. */
  async texts(prompts: readonly string[]): Promise<Embeddings> {
    return normalised(await this.textFeatures(prompts));
  }

  /** As `texts`, before normalising. */
  async textFeatures(prompts: readonly string[]): Promise<Embeddings> {
    const { tokenizer } = this.model;
    return this.textFeaturesOfIds(prompts.map((prompt) => tokenizer.encodePadded(prompt).ids));
  }

  /** Text features of token ids, equally long lists. */
  async textFeaturesOfIds(batch: readonly (readonly number[])[]): Promise<Embeddings> {
    const { text, weights, file, projectionDim } = this.model;
    const data = new Float32Array(batch.length * projectionDim);
    for (let start = 0; start < batch.length; start += this.#batch) {
      const ids = batch.slice(start, start + this.#batch);
      const { hiddenStates } = await encodeText(
        { config: text, weights, file, layers: new Map() },
        this.#tokens,
        ids,
      );
      const [, tokens, width] = hiddenStates.shape as [number, number, number];
      const pooled = float32([ids.length, width]);
      ids.forEach((row, b) => {
        const at = (b * tokens + pooledPosition(row, text.eosTokenId)) * width;
        pooled.data.set(hiddenStates.data.subarray(at, at + width), b * width);
      });
      const network = buildTextProjection(weights, { batch: ids.length, width, projectionDim });
      const session = await this.#execution.runtime.load(network.graph, 'once', this.#execution);
      try {
        const { text_embeds } = await session.run({ pooled });
        data.set(text_embeds!.data as Float32Array, start * projectionDim);
      } finally {
        await session.dispose();
      }
    }
    return { count: batch.length, width: projectionDim, data };
  }

  async dispose(): Promise<void> {
    await this.#vision?.dispose();
    this.#vision = null;
  }

  async #visionSession(): Promise<LoadedGraph> {
    if (this.#vision !== null) return this.#vision;
    const { vision, preprocessor, projectionDim, weights, path } = this.model;
    const seen = preprocessor.crop ?? preprocessor.resize;
    if (
      seen === null ||
      typeof seen === 'number' ||
      seen.height !== vision.imageSize ||
      seen.width !== vision.imageSize
    ) {
      const got = seen === null || typeof seen === 'number' ? 'any shape' : `${seen.height} × ${seen.width}`;
      throw new ShapeError(
        `${path}: preprocessor_config.json: expected pictures cut to ${vision.imageSize} × ${vision.imageSize}, got ${got}`,
      );
    }
    const network = buildVisionEncoder(weights, vision, { batch: this.#batch, projectionDim });
    this.#vision = await this.#execution.runtime.load(network.graph, 'every-step', this.#execution);
    return this.#vision;
  }
}

/** The rows divided by their lengths. */
export function normalised({ count, width, data }: Embeddings): Embeddings {
  const result = new Float32Array(data.length);
  for (let i = 0; i < count; i++) {
    const row = data.subarray(i * width, (i + 1) * width);
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    for (let j = 0; j < width; j++) result[i * width + j] = row[j]! / length;
  }
  return { count, width, data: result };
}
