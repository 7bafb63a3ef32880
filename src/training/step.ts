/**
 * Loss and gradients of one batch: text features, the UNet with its loss, and back through the text encoder. The
 * graphs are loaded once per picture size and run with whatever the trained tensors are at the time.
 */
import type { Graph } from '../graph/graph.ts';
import { GraphSession } from '../graph/session.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import { levelSizes, transformerPlaces } from '../models/unet/structure.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { attentionTargets, wordPositions } from './attention-regularization.ts';
import { gradientOutput } from './gradient-outputs.ts';
import { buildTextFeatures, buildTextGradients } from './text-graph.ts';
import { buildUnetStep, type UnetGraphOptions } from './unet-graph.ts';

export interface StepPlan extends Omit<UnetGraphOptions, 'ranks' | 'contextGradient'> {
  /** Trained layers of the UNet and of the text encoder, with the ranks of their factors. */
  readonly unetRanks: ReadonlyMap<string, number>;
  readonly textRanks: ReadonlyMap<string, number>;
  /** First token id whose embedding is trained; these ids follow the vocabulary. Null: no embedding is. */
  readonly firstTrainedId: number | null;
  /** Weight of the attention regularisation; only with `attention`. */
  readonly attentionWeight: number;
  /** CPU threads of one operator; default the runtime's choice. */
  readonly threads?: number;
}

export interface StepBatch {
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** [B, C, h, w] */
  readonly noisy: Float32Array;
  readonly target: Float32Array;
  /** One per row. */
  readonly timesteps: readonly number[];
  /** [B, 1, h, w], see loss-weights.ts. */
  readonly lossWeights: Float32Array;
  /** Token ids of each row: one list per cross-attention layer, or one for all. Padded to the model's positions. */
  readonly prompts: readonly (readonly (readonly number[])[])[];
  /** For the attention regularisation: masks [B, h, w], and where each row has the two words. */
  readonly attention?: {
    readonly masks: Float32Array;
    readonly words: readonly (readonly [number, number] | null)[];
  };
}

/** Gradients of a layer's factors, down [r, n] and up [m, r]. */
export interface FactorGradients {
  readonly down: Float32Array;
  readonly up: Float32Array;
}

export interface StepResult {
  readonly loss: number;
  /** Weighted squares per row. */
  readonly errors: Float32Array;
  readonly unet: ReadonlyMap<string, FactorGradients>;
  readonly text: ReadonlyMap<string, FactorGradients>;
  /** [trained rows, D]; rows that no prompt of the batch has are zero. Null if none are trained. */
  readonly embeddings: Float32Array | null;
  /** Every output of the UNet's graph that is not a gradient. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** Prompts whose features are kept, at most: 60 MB at the width of SD 1.5. */
const FIXED_PROMPTS = 256;

/** Factors of trained layers as graph inputs. */
export type FactorFeeds = Readonly<Record<string, Tensor>>;

export class TrainingStep {
  readonly #base: Checkpoint;
  readonly #embeddings: TokenEmbeddings;
  readonly #trainedRows: number;
  readonly #plan: StepPlan;
  readonly #sessions = new Map<string, Promise<GraphSession>>();
  /** Features [T, D] of prompts that training does not change, by ids. */
  readonly #fixed = new Map<string, Float32Array>();

  /**
   * @param embeddings  the token table; the trained rows behind it are read anew at every step
   * @param trainedRows number of rows behind the vocabulary
   */
  constructor(base: Checkpoint, embeddings: TokenEmbeddings, trainedRows: number, plan: StepPlan) {
    this.#base = base;
    this.#embeddings = embeddings;
    this.#trainedRows = trainedRows;
    this.#plan = plan;
  }

  /** @throws {ShapeError} if the batch or the factors do not fit the plan */
  async run(batch: StepBatch, unetFactors: FactorFeeds, textFactors: FactorFeeds): Promise<StepResult> {
    const features = await this.#features(batch.prompts.flat(), textFactors);
    const outputs = await this.#unet(batch, features, unetFactors);
    const dContext = outputs[gradientOutput('encoder_hidden_states')] as Tensor<Float32Array> | undefined;
    const text =
      dContext === undefined
        ? { factors: new Map<string, FactorGradients>(), embeddings: null }
        : await this.#textGradients(batch.prompts.flat(), dContext, textFactors);
    return {
      loss: (outputs.loss!.data as Float32Array)[0]!,
      errors: outputs.errors!.data as Float32Array,
      unet: factorGradients(this.#plan.unetRanks.keys(), outputs),
      text: text.factors,
      embeddings: text.embeddings,
      outputs: Object.fromEntries(Object.entries(outputs).filter(([name]) => !name.startsWith('d:'))),
    };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    for (const session of sessions) await (await session).dispose();
  }

  async #unet(
    batch: StepBatch,
    features: ReadonlyMap<string, Float32Array>,
    factors: FactorFeeds,
  ): Promise<Record<string, Tensor>> {
    const { config } = this.#base.unet;
    const { unetRanks, attention, attentionWeight, layerwise } = this.#plan;
    const { latentHeight, latentWidth, timesteps, prompts } = batch;
    const rows = timesteps.length;
    const tokens = prompts[0]![0]!.length;
    const width = config.crossAttentionDim;
    const context = float32(layerwise ? [rows, prompts[0]!.length, tokens, width] : [rows, tokens, width]);
    prompts.flat().forEach((ids, i) => {
      context.data.set(features.get(ids.join())!, i * tokens * width);
    });
    const shape = [rows, config.inChannels, latentHeight, latentWidth];
    const feeds: Record<string, Tensor> = {
      sample: float32(shape, batch.noisy),
      timestep: float32([rows], timesteps),
      encoder_hidden_states: context,
      target: float32(shape, batch.target),
      loss_weight: float32([rows, 1, latentHeight, latentWidth], batch.lossWeights),
      ...factors,
    };
    if (attention !== null) {
      const sizes = levelSizes(config, latentHeight, latentWidth);
      const levels = new Map(transformerPlaces(config).map(({ level }) => [level, sizes[level]!]));
      const size = { height: latentHeight, width: latentWidth };
      const masks = batch.attention?.masks ?? new Float32Array(rows * latentHeight * latentWidth).fill(1);
      const targets = attentionTargets(masks, rows, size, levels);
      const words = batch.attention?.words ?? [];
      // A batch without the words has maps of zeros, whose maximum cannot divide them: any place will do at weight 0.
      const counts = targets.counts && words.some((places) => places !== null);
      const places = counts ? words : timesteps.map(() => [0, 0] as const);
      Object.assign(feeds, targets.feeds, {
        word_positions: wordPositions(places, tokens),
        attention_weight: float32([1], [counts ? attentionWeight : 0]),
      });
    }
    const session = await this.#session(`unet ${rows} ${latentHeight} ${latentWidth} ${tokens}`, () =>
      buildUnetStep(
        this.#base.unet,
        { batch: rows, latentHeight, latentWidth, tokens },
        { ...this.#plan, ranks: unetRanks, contextGradient: this.#trainsText },
      ),
    );
    return session.run(feeds);
  }

  get #trainsText(): boolean {
    return this.#plan.textRanks.size > 0 || this.#plan.firstTrainedId !== null;
  }

  /** Do the features of these ids change while training? */
  #changes(ids: readonly number[]): boolean {
    const { textRanks, firstTrainedId } = this.#plan;
    return textRanks.size > 0 || (firstTrainedId !== null && ids.some((id) => id >= firstTrainedId));
  }

  /** Features [T, D] by ids. Prompts that training does not change are encoded once. */
  async #features(
    prompts: readonly (readonly number[])[],
    factors: FactorFeeds,
  ): Promise<Map<string, Float32Array>> {
    const found = new Map<string, Float32Array>();
    const missing = new Map<string, readonly number[]>();
    for (const ids of prompts) {
      const key = ids.join();
      const known = this.#fixed.get(key);
      if (known === undefined) missing.set(key, ids);
      else found.set(key, known);
    }
    for (const chunk of chunks([...missing.values()], this.#chunkSize)) {
      const session = await this.#session(`features ${chunk[0]!.length}`, (size) =>
        buildTextFeatures(this.#base.textEncoder, size, this.#plan.textRanks),
      );
      const output = await session.run({ token_embeddings: this.#lookUp(chunk), ...factors });
      const { data, shape } = output.last_hidden_state as Tensor<Float32Array>;
      const size = shape[1]! * shape[2]!;
      chunk.forEach((ids, i) => {
        const own = data.slice(i * size, (i + 1) * size);
        found.set(ids.join(), own);
        if (this.#fixed.size < FIXED_PROMPTS && !this.#changes(ids)) this.#fixed.set(ids.join(), own);
      });
    }
    return found;
  }

  /** @param dContext gradient of each prompt's features, [number of prompts, T, D] under any shape */
  async #textGradients(
    prompts: readonly (readonly number[])[],
    dContext: Tensor<Float32Array>,
    textFactors: FactorFeeds,
  ): Promise<{ factors: Map<string, FactorGradients>; embeddings: Float32Array | null }> {
    const { textRanks, firstTrainedId } = this.#plan;
    const size = dContext.data.length / prompts.length;
    // A prompt that several rows or layers share gets the sum of their gradients.
    const seeds = new Map<string, { ids: readonly number[]; d: Float32Array }>();
    prompts.forEach((ids, i) => {
      if (!this.#changes(ids)) return;
      const own = dContext.data.subarray(i * size, (i + 1) * size);
      const seed = seeds.get(ids.join());
      if (seed === undefined) seeds.set(ids.join(), { ids, d: own.slice() });
      else addTo(seed.d, own);
    });
    const factors = new Map<string, FactorGradients>();
    const width = this.#embeddings.width;
    const embeddings = firstTrainedId === null ? null : new Float32Array(this.#trainedRows * width);
    for (const chunk of chunks([...seeds.values()], this.#chunkSize)) {
      const session = await this.#session(`text gradients ${chunk[0]!.ids.length}`, (textSize) =>
        buildTextGradients(this.#base.textEncoder, textSize, textRanks, embeddings !== null),
      );
      const d = float32([this.#chunkSize, size / width, width]);
      chunk.forEach((seed, i) => {
        d.data.set(seed.d, i * size);
      });
      const ids = chunk.map((seed) => seed.ids);
      const output = await session.run({
        token_embeddings: this.#lookUp(ids),
        d_last_hidden_state: d,
        ...textFactors,
      });
      for (const [layer, own] of factorGradients(textRanks.keys(), output)) {
        const sum = factors.get(layer);
        if (sum === undefined) {
          factors.set(layer, own);
          continue;
        }
        addTo(sum.down, own.down);
        addTo(sum.up, own.up);
      }
      if (embeddings === null) continue;
      const dEmbeddings = output[gradientOutput('token_embeddings')]!.data as Float32Array;
      ids.flat().forEach((id, i) => {
        const row = id - firstTrainedId!;
        if (row < 0 || row >= this.#trainedRows) return;
        addTo(
          embeddings.subarray(row * width, (row + 1) * width),
          dEmbeddings.subarray(i * width, (i + 1) * width),
        );
      });
    }
    // A batch whose prompts nothing trains leaves the text as it is.
    for (const layer of factors.size === 0 ? textRanks.keys() : []) {
      const [down, up] = [textFactors[loraDownInput(layer)]!, textFactors[loraUpInput(layer)]!];
      factors.set(layer, { down: new Float32Array(down.data.length), up: new Float32Array(up.data.length) });
    }
    return { factors, embeddings };
  }

  /** Prompts per run of the text graphs: those of one row. */
  get #chunkSize(): number {
    return this.#plan.layerwise ? transformerPlaces(this.#base.unet.config).length : 1;
  }

  /** Embeddings of a chunk; a short one is filled up with its first prompt. */
  #lookUp(chunk: readonly (readonly number[])[]): Tensor<Float32Array> {
    return this.#embeddings.lookUp(Array.from({ length: this.#chunkSize }, (_, i) => chunk[i] ?? chunk[0]!));
  }

  #session(
    key: string,
    build: (size: { readonly batch: number; readonly tokens: number }) => Graph,
  ): Promise<GraphSession> {
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const size = { batch: this.#chunkSize, tokens: Number(key.split(' ').at(-1)) };
      const { threads } = this.#plan;
      // Lean: each weight is used forward and backward; a reordered copy per use would double the memory.
      session = GraphSession.create(build(size), {
        lean: true,
        ...(threads === undefined ? {} : { threads }),
      });
      this.#sessions.set(key, session);
    }
    return session;
  }
}

function factorGradients(
  layers: Iterable<string>,
  outputs: Readonly<Record<string, Tensor>>,
): Map<string, FactorGradients> {
  const of = (input: string): Float32Array => outputs[gradientOutput(input)]!.data as Float32Array;
  return new Map(
    [...layers].map((layer) => [layer, { down: of(loraDownInput(layer)), up: of(loraUpInput(layer)) }]),
  );
}

function addTo(sum: Float32Array, other: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += other[i]!;
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
}
