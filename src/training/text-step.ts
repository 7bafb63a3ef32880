/**
 * The text encoder's half of a training step: features of a batch's prompts, and their gradient back to embeddings and
 * factors. Equal prompts are encoded once, prompts that training does not change once per run.
 */

import { gradientOutput } from '../graph/gradient-outputs.ts';
import type { Graph } from '../graph/graph.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import type { TextEncoderSize, TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { LoadedGraphs } from '../runtime/loaded-graphs.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { type FactorFeeds, type FactorGradients, factorGradients } from './factor-gradients.ts';
import { commonPrefix, type Ids } from './prompt-prefix.ts';
import { buildTextFeatures, buildTextGradients } from './text-graph.ts';

export interface TextStepPlan {
  /** Trained layers with the ranks of their factors. */
  readonly ranks: ReadonlyMap<string, number>;
  /** First token id whose embedding is trained; these ids follow the vocabulary. Null: no embedding is. */
  readonly firstTrainedId: number | null;
  /** Number of trained embeddings. */
  readonly trainedRows: number;
  /** Prompts per run of a graph. */
  readonly promptsPerRun: number;
  /**
   * Positions at the beginning that the prompts of a run are computed once for, wherever they are equal so far; others
   * run without sharing. 0: never.
   */
  readonly sharedPrefix: number;
}

export interface TextGradients {
  readonly factors: Map<string, FactorGradients>;
  /** [trained rows, D]; rows that no prompt of the batch has are zero. Null if none are trained. */
  readonly embeddings: Float32Array | null;
}

/** Prompts whose features are kept, at most: 60 MB at the width of SD 1.5. */
const FIXED_PROMPTS = 256;

export class TextStep {
  readonly #encoder: ModelPart<ClipTextConfig>;
  readonly #embeddings: TokenEmbeddings;
  readonly #plan: TextStepPlan;
  readonly #graphs: LoadedGraphs;
  /** Features [T, D] of prompts that training does not change, by ids. */
  readonly #fixed = new Map<string, Float32Array>();

  /** @param embeddings the token table; the trained rows behind it are read anew at every step */
  constructor(
    encoder: ModelPart<ClipTextConfig>,
    embeddings: TokenEmbeddings,
    plan: TextStepPlan,
    execution: ExecutionContext = executionContext(),
  ) {
    this.#encoder = encoder;
    this.#embeddings = embeddings;
    this.#plan = plan;
    this.#graphs = new LoadedGraphs(execution.runtime, 'training', execution);
  }

  /** Is anything trained that features depend on? */
  get trains(): boolean {
    return this.#plan.ranks.size > 0 || this.#plan.firstTrainedId !== null;
  }

  /** Do the features of these ids change while training? */
  #changes(ids: Ids): boolean {
    const { ranks, firstTrainedId } = this.#plan;
    return ranks.size > 0 || (firstTrainedId !== null && ids.some((id) => id >= firstTrainedId));
  }

  /** Features [T, D] of each prompt, by its ids joined with commas. */
  async features(prompts: readonly Ids[], factors: FactorFeeds): Promise<Map<string, Float32Array>> {
    const found = new Map<string, Float32Array>();
    const missing = new Map<string, Ids>();
    for (const ids of prompts) {
      const key = ids.join();
      const known = this.#fixed.get(key);
      if (known === undefined) missing.set(key, ids);
      else found.set(key, known);
    }
    for (const chunk of this.#chunks([...missing.values()])) {
      const shared = this.#sharedBy(chunk);
      const session = await this.#session('features', chunk, shared, (size) =>
        buildTextFeatures(this.#encoder, size, this.#plan.ranks),
      );
      const output = await session.run({ ...this.#lookUp(chunk, shared), ...factors });
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
  async gradients(
    prompts: readonly Ids[],
    dContext: Tensor<Float32Array>,
    factorFeeds: FactorFeeds,
  ): Promise<TextGradients> {
    const { ranks, firstTrainedId, trainedRows } = this.#plan;
    const width = this.#embeddings.width;
    const factors = new Map<string, FactorGradients>();
    const embeddings = firstTrainedId === null ? null : new Float32Array(trainedRows * width);
    for (const chunk of this.#chunks(this.#seeds(prompts, dContext))) {
      const ids = chunk.map((seed) => seed.ids);
      const shared = this.#sharedBy(ids);
      const session = await this.#session('gradients', ids, shared, (size) =>
        buildTextGradients(this.#encoder, size, ranks, embeddings !== null),
      );
      const d = float32([this.#plan.promptsPerRun, ids[0]!.length, width]);
      chunk.forEach((seed, i) => {
        d.data.set(seed.d, i * seed.d.length);
      });
      const output = await session.run({
        ...this.#lookUp(ids, shared),
        d_last_hidden_state: d,
        ...factorFeeds,
      });
      for (const [layer, own] of factorGradients(ranks.keys(), output)) {
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
      const own = ids.flatMap((prompt) => prompt.slice(shared));
      own.forEach((id, i) => {
        const row = id - firstTrainedId!;
        if (row < 0 || row >= trainedRows) return;
        addTo(
          embeddings.subarray(row * width, (row + 1) * width),
          dEmbeddings.subarray(i * width, (i + 1) * width),
        );
      });
    }
    // A batch whose prompts nothing trains leaves the text as it is.
    for (const layer of factors.size === 0 ? ranks.keys() : []) {
      const [down, up] = [factorFeeds[loraDownInput(layer)]!, factorFeeds[loraUpInput(layer)]!];
      factors.set(layer, { down: new Float32Array(down.data.length), up: new Float32Array(up.data.length) });
    }
    return { factors, embeddings };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    await this.#graphs.dispose();
  }

  /** The features' gradient of each prompt that training changes; one that several rows or layers share gets the sum. */
  #seeds(prompts: readonly Ids[], dContext: Tensor<Float32Array>): { ids: Ids; d: Float32Array }[] {
    const size = dContext.data.length / prompts.length;
    const seeds = new Map<string, { ids: Ids; d: Float32Array }>();
    prompts.forEach((ids, i) => {
      if (!this.#changes(ids)) return;
      const own = dContext.data.subarray(i * size, (i + 1) * size);
      const seed = seeds.get(ids.join());
      if (seed === undefined) seeds.set(ids.join(), { ids, d: own.slice() });
      else addTo(seed.d, own);
    });
    return [...seeds.values()];
  }

  #chunks<T>(items: readonly T[]): T[][] {
    const size = this.#plan.promptsPerRun;
    return Array.from({ length: Math.ceil(items.length / size) }, (_, i) =>
      items.slice(i * size, (i + 1) * size),
    );
  }

  /** Positions that this chunk computes once: the plan's number, if its prompts are equal so far, or none. */
  #sharedBy(chunk: readonly Ids[]): number {
    const { sharedPrefix, firstTrainedId } = this.#plan;
    return commonPrefix(chunk, firstTrainedId) >= sharedPrefix ? sharedPrefix : 0;
  }

  /** Embeddings of a chunk; a short one is filled up with its first prompt. */
  #lookUp(chunk: readonly Ids[], shared: number): Record<string, Tensor> {
    const filled = Array.from({ length: this.#plan.promptsPerRun }, (_, i) => chunk[i] ?? chunk[0]!);
    return {
      token_embeddings: this.#embeddings.lookUp(filled.map((ids) => ids.slice(shared))),
      ...(shared === 0 ? {} : { prefix_embeddings: this.#embeddings.lookUp([chunk[0]!.slice(0, shared)]) }),
    };
  }

  #session(
    what: string,
    chunk: readonly Ids[],
    sharedPrefix: number,
    build: (size: TextEncoderSize) => Graph,
  ): Promise<LoadedGraph> {
    const tokens = chunk[0]!.length;
    return this.#graphs.get(`${what} ${tokens} ${sharedPrefix}`, () =>
      build({ batch: this.#plan.promptsPerRun, tokens, sharedPrefix }),
    );
  }
}

function addTo(sum: Float32Array, other: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += other[i]!;
}
