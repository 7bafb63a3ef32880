/**
 * The text encoder's half of a training step: features of a batch's prompts, and their gradient back to embeddings and
 * factors. Equal prompts are encoded once, prompts that training does not change once per run.
 */

import { gradientOutput } from '../graph/gradient-outputs.ts';
import type { Graph } from '../graph/graph.ts';
import { layersRun, pooledRows } from '../models/clip/encode-text.ts';
import { pooledPosition, type TextEncoderSize, type TokenEmbeddings } from '../models/clip/text-encoder.ts';
import type { TextReading } from '../models/families/family.ts';
import type { TextPart } from '../models/families/model-part.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { LoadedGraphs } from '../runtime/loaded-graphs.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { type FactorFeeds, type FactorGradients, factorGradients } from './factor-gradients.ts';
import { commonPrefix, type Ids } from './prompt-prefix.ts';
import { buildTextFeatures, buildTextGradients, promptsTogether } from './text-graph.ts';

export interface TextStepPlan {
  /** Trained layers with the ranks of their factors. */
  readonly ranks: ReadonlyMap<string, number>;
  /** First token id whose embedding is trained; these ids follow the vocabulary. Null: no embedding is. */
  readonly firstTrainedId: number | null;
  /** Number of trained embeddings. */
  readonly trainedRows: number;
  /** Prompts of a step that are worth one run of a graph; of large text encoders some of them run at a time. */
  readonly prompts: number;
  /**
   * Positions at the beginning that the prompts of a run are computed once for, wherever they are equal so far; others
   * run without sharing. 0: never.
   */
  readonly sharedPrefix: number;
}

/** What the UNet reads of a prompt. */
export interface TextFeatures {
  /** [T, D] */
  readonly states: Float32Array;
  /** [P], of text encoders that pool. */
  readonly pooled: Float32Array | null;
}

/** A prompt with its features' gradient. */
export interface TextSeed extends TextFeatures {
  readonly ids: Ids;
}

export interface TextGradients {
  readonly factors: Map<string, FactorGradients>;
  /** [trained rows, D]; rows that no prompt of the batch has are zero. Null if none are trained. */
  readonly embeddings: Float32Array | null;
}

/** Prompts whose features are kept, at most: 60 MB at the width of SD 1.5. */
const FIXED_PROMPTS = 256;

export class TextStep {
  readonly #encoder: TextPart;
  readonly #reading: TextReading;
  /** Trained layers that the reading runs, with their ranks; the others get no gradient. */
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #embeddings: TokenEmbeddings;
  readonly #plan: TextStepPlan;
  /** Prompts of one run. */
  readonly #together: number;
  readonly #graphs: LoadedGraphs;
  /** Of prompts that training does not change, by ids. */
  readonly #fixed = new Map<string, TextFeatures>();

  /**
   * @param reading    what the base's family reads of it
   * @param embeddings the token table; the trained rows behind it are read anew at every step
   */
  constructor(
    encoder: TextPart,
    reading: TextReading,
    embeddings: TokenEmbeddings,
    plan: TextStepPlan,
    execution: ExecutionContext = executionContext(),
  ) {
    this.#encoder = encoder;
    const pooled = reading.pooled && encoder.config.projectionDim !== undefined;
    this.#reading = { ...reading, pooled };
    const run = layersRun(encoder.config, this.#reading);
    this.#ranks = new Map([...plan.ranks].filter(([layer]) => run.has(layer)));
    this.#embeddings = embeddings;
    this.#plan = plan;
    this.#together = promptsTogether(encoder, this.#reading, plan.prompts);
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

  /** Columns of the features, D. */
  get width(): number {
    return this.#embeddings.width;
  }

  /** Whether it gives a vector of the whole prompt. */
  get pools(): boolean {
    return this.#reading.pooled;
  }

  /** Features of each prompt, by its ids joined with commas. */
  async features(prompts: readonly Ids[], factors: FactorFeeds): Promise<Map<string, TextFeatures>> {
    const found = new Map<string, TextFeatures>();
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
        buildTextFeatures(this.#encoder, size, this.#ranks, this.#reading),
      );
      const output = await session.run({ ...this.#lookUp(chunk, shared), ...this.#factorsRun(factors) });
      const rowOf = (name: string, i: number): Float32Array | null => {
        const tensor = output[name] as Tensor<Float32Array> | undefined;
        const size = tensor === undefined ? 0 : tensor.data.length / tensor.shape[0]!;
        return tensor?.data.slice(i * size, (i + 1) * size) ?? null;
      };
      chunk.forEach((ids, i) => {
        const own = { states: rowOf('last_hidden_state', i)!, pooled: rowOf('text_embeds', i) };
        found.set(ids.join(), own);
        if (this.#fixed.size < FIXED_PROMPTS && !this.#changes(ids)) this.#fixed.set(ids.join(), own);
      });
    }
    return found;
  }

  /** @param all every prompt with its features' gradient; equal prompts may come several times */
  async gradients(all: readonly TextSeed[], factorFeeds: FactorFeeds): Promise<TextGradients> {
    const { firstTrainedId, trainedRows } = this.#plan;
    const ranks = this.#ranks;
    const width = this.#embeddings.width;
    const factors = new Map<string, FactorGradients>();
    const embeddings = firstTrainedId === null ? null : new Float32Array(trainedRows * width);
    for (const chunk of this.#chunks(this.#seeds(all))) {
      const ids = chunk.map((seed) => seed.ids);
      const shared = this.#sharedBy(ids);
      const session = await this.#session('gradients', ids, shared, (size) =>
        buildTextGradients(this.#encoder, size, ranks, this.#reading, embeddings !== null),
      );
      const rows = this.#together;
      const output = await session.run({
        ...this.#lookUp(ids, shared),
        d_last_hidden_state: float32(
          [rows, ids[0]!.length, width],
          stacked(
            chunk.map(({ states }) => states),
            rows,
          ),
        ),
        ...(this.pools
          ? {
              d_text_embeds: float32(
                [rows, this.#encoder.config.projectionDim!],
                stacked(
                  chunk.map(({ pooled }) => pooled!),
                  rows,
                ),
              ),
            }
          : {}),
        ...this.#factorsRun(factorFeeds),
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
    // A batch whose prompts nothing trains leaves the text as it is; layers that nobody reads stay as they are.
    for (const layer of this.#plan.ranks.keys()) {
      if (factors.has(layer)) continue;
      const [down, up] = [factorFeeds[loraDownInput(layer)]!, factorFeeds[loraUpInput(layer)]!];
      factors.set(layer, { down: new Float32Array(down.data.length), up: new Float32Array(up.data.length) });
    }
    return { factors, embeddings };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    await this.#graphs.dispose();
  }

  /** Of each prompt that training changes; one that several rows or layers share gets the sum. */
  #seeds(all: readonly TextSeed[]): TextSeed[] {
    const size = this.#encoder.config.projectionDim!;
    const seeds = new Map<string, TextSeed>();
    for (const { ids, states, pooled } of all) {
      if (!this.#changes(ids)) continue;
      const seed = seeds.get(ids.join()) ?? {
        ids,
        states: new Float32Array(states.length),
        pooled: this.pools ? new Float32Array(size) : null,
      };
      addTo(seed.states, states);
      if (pooled !== null && seed.pooled !== null) addTo(seed.pooled, pooled);
      seeds.set(ids.join(), seed);
    }
    return [...seeds.values()];
  }

  /** Factors that the graphs take. */
  #factorsRun(factors: FactorFeeds): FactorFeeds {
    if (this.#ranks.size === this.#plan.ranks.size) return factors;
    const inputs = [...this.#ranks.keys()].flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)]);
    return Object.fromEntries(inputs.map((name) => [name, factors[name]!]));
  }

  #chunks<T>(items: readonly T[]): T[][] {
    const size = this.#together;
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
    const filled = Array.from({ length: this.#together }, (_, i) => chunk[i] ?? chunk[0]!);
    const pooledAt = filled.map((ids) => pooledPosition(ids, this.#encoder.config.eosTokenId));
    return {
      ...(this.pools ? { pooled_rows: pooledRows(pooledAt, filled[0]!.length) } : {}),
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
      build({ batch: this.#together, tokens, sharedPrefix }),
    );
  }
}

/** One after another, zeros behind them up to `count` of the first one's length. */
function stacked(parts: readonly Float32Array[], count: number): Float32Array {
  const all = new Float32Array(count * parts[0]!.length);
  parts.forEach((part, i) => {
    all.set(part, i * part.length);
  });
  return all;
}

function addTo(sum: Float32Array, other: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += other[i]!;
}
