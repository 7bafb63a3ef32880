/**
 * The text encoder's half of a training step: features of a batch's prompts, and their gradient back to embeddings and
 * factors. Equal prompts are encoded once, prompts that training does not change once per run.
 */
import { GraphSession } from '../graph/session.ts';
import { keptName, type SplitGraph } from '../graph/split.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import { float32, sizeOf, type Tensor } from '../tensor/tensor.ts';
import { type FactorFeeds, type FactorGradients, factorGradients } from './factor-gradients.ts';
import { gradientOutput } from './gradient-outputs.ts';
import { commonPrefix, type Ids } from './prompt-prefix.ts';
import { buildTextHalves } from './text-graph.ts';

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
  /**
   * Activations that wait for their gradients: those of one run, and of others up to this many bytes. The rest is
   * computed again. Default 1 GB, two runs of SD 1.5.
   */
  readonly keptBytes?: number;
  /** CPU threads of one operator; default the runtime's choice. */
  readonly threads?: number;
}

export interface TextGradients {
  readonly factors: Map<string, FactorGradients>;
  /** [trained rows, D]; rows that no prompt of the batch has are zero. Null if none are trained. */
  readonly embeddings: Float32Array | null;
}

/** A batch's prompts between forward and backward. */
export interface EncodedPrompts {
  /** Features [T, D] of each prompt, by its ids joined with commas. */
  readonly features: ReadonlyMap<string, Float32Array>;
  /** @param dContext gradient of each prompt's features, [number of prompts, T, D] under any shape */
  backward(dContext: Tensor<Float32Array>): Promise<TextGradients>;
}

/** Prompts that go through the graphs together. */
interface Run {
  readonly prompts: readonly Ids[];
  readonly shared: number;
}

type Activations = Readonly<Record<string, Float32Array>>;

/** Prompts whose features are kept, at most: 60 MB at the width of SD 1.5. */
const FIXED_PROMPTS = 256;

export class TextStep {
  readonly #encoder: ModelPart<ClipTextConfig>;
  readonly #embeddings: TokenEmbeddings;
  readonly #plan: TextStepPlan;
  readonly #graphs = new Map<string, SplitGraph>();
  readonly #sessions = new Map<string, Promise<GraphSession>>();
  /** Features [T, D] of prompts that training does not change, by ids. */
  readonly #fixed = new Map<string, Float32Array>();
  /** Activations by graph and place in the batch, overwritten step by step. */
  readonly #kept = new Map<string, Activations>();

  /** @param embeddings the token table; the trained rows behind it are read anew at every step */
  constructor(encoder: ModelPart<ClipTextConfig>, embeddings: TokenEmbeddings, plan: TextStepPlan) {
    this.#encoder = encoder;
    this.#embeddings = embeddings;
    this.#plan = plan;
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

  /** Encode a batch. Its `backward` is for the last batch only. */
  async encode(prompts: readonly Ids[], factors: FactorFeeds): Promise<EncodedPrompts> {
    const unique = new Map(prompts.map((ids) => [ids.join(), ids]));
    const changing = [...unique.values()].filter((ids) => this.#changes(ids));
    const others = [...unique.values()].filter((ids) => !this.#changes(ids) && !this.#fixed.has(ids.join()));
    const features = new Map<string, Float32Array>();
    for (const run of this.#runs(others)) {
      for (const [key, own] of await this.#forward(run, factors, null)) {
        if (this.#fixed.size < FIXED_PROMPTS) this.#fixed.set(key, own);
        features.set(key, own);
      }
    }
    for (const key of unique.keys()) if (this.#fixed.has(key)) features.set(key, this.#fixed.get(key)!);
    const runs = this.#runs(changing);
    const kept: (Activations | null)[] = [];
    for (const [i, run] of runs.entries()) {
      const activations = this.#activations(run, i);
      for (const [key, own] of await this.#forward(run, factors, activations)) features.set(key, own);
      kept.push(activations);
    }
    const backward = async (dContext: Tensor<Float32Array>): Promise<TextGradients> => {
      const sum = this.#zeros(factors);
      for (const [i, run] of runs.entries()) {
        const activations = kept[i] ?? this.#activations(run, 0)!;
        if (kept[i] === null) await this.#forward(run, factors, activations);
        await this.#backward(run, activations, this.#seeds(run, prompts, dContext), factors, sum);
      }
      return sum;
    };
    return { features, backward };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    this.#kept.clear();
    for (const session of sessions) await (await session).dispose();
  }

  /** Features of a run's prompts by ids; where given, `activations` are written. */
  async #forward(
    run: Run,
    factors: FactorFeeds,
    activations: Activations | null,
  ): Promise<Map<string, Float32Array>> {
    const first = await this.#session(run, 'first');
    const feeds = { ...this.#lookUp(run), ...factors };
    const output =
      activations === null
        ? await first.run(feeds, ['last_hidden_state'])
        : await first.run(feeds, undefined, activations);
    const { data, shape } = output.last_hidden_state as Tensor<Float32Array>;
    const size = shape[1]! * shape[2]!;
    return new Map(run.prompts.map((ids, i) => [ids.join(), data.slice(i * size, (i + 1) * size)]));
  }

  /** Adds a run's gradients to `sum`. */
  async #backward(
    run: Run,
    activations: Activations,
    seeds: Tensor,
    factors: FactorFeeds,
    sum: TextGradients,
  ): Promise<void> {
    const { ranks, firstTrainedId, trainedRows } = this.#plan;
    const graphs = this.#halves(run);
    const second = await this.#session(run, 'second');
    const given: Record<string, Tensor> = { ...factors, ...this.#lookUp(run), d_last_hidden_state: seeds };
    for (const value of graphs.kept) given[value.name] = float32(value.shape, activations[keptName(value)]!);
    const taken = graphs.second.inputs.map(({ name }) => [name, given[name]!] as const);
    const output = await second.run(Object.fromEntries(taken));
    for (const [layer, { down, up }] of factorGradients(ranks.keys(), output)) {
      addTo(sum.factors.get(layer)!.down, down);
      addTo(sum.factors.get(layer)!.up, up);
    }
    if (sum.embeddings === null) return;
    const width = this.#embeddings.width;
    const d = output[gradientOutput('token_embeddings')]!.data as Float32Array;
    const ids = run.prompts.flatMap((prompt) => prompt.slice(run.shared));
    for (const [i, id] of ids.entries()) {
      const row = id - firstTrainedId!;
      if (row < 0 || row >= trainedRows) continue;
      addTo(sum.embeddings.subarray(row * width, (row + 1) * width), d.subarray(i * width, (i + 1) * width));
    }
  }

  #zeros(factors: FactorFeeds): TextGradients {
    const { ranks, firstTrainedId, trainedRows } = this.#plan;
    const like = (input: string): Float32Array => new Float32Array(factors[input]!.data.length);
    return {
      factors: new Map(
        [...ranks.keys()].map((layer) => [
          layer,
          { down: like(loraDownInput(layer)), up: like(loraUpInput(layer)) },
        ]),
      ),
      embeddings: firstTrainedId === null ? null : new Float32Array(trainedRows * this.#embeddings.width),
    };
  }

  /** The features' gradients of a run, [B, T, D]; a prompt that several rows or layers share gets the sum. */
  #seeds(run: Run, prompts: readonly Ids[], dContext: Tensor<Float32Array>): Tensor {
    const size = dContext.data.length / prompts.length;
    const places = new Map(run.prompts.map((ids, i) => [ids.join(), i * size]));
    const seeds = float32([this.#plan.promptsPerRun, run.prompts[0]!.length, this.#embeddings.width]);
    prompts.forEach((ids, i) => {
      const place = places.get(ids.join());
      if (place === undefined) return;
      addTo(seeds.data.subarray(place, place + size), dContext.data.subarray(i * size, (i + 1) * size));
    });
    return seeds;
  }

  #runs(prompts: readonly Ids[]): Run[] {
    const { promptsPerRun, sharedPrefix, firstTrainedId } = this.#plan;
    return Array.from({ length: Math.ceil(prompts.length / promptsPerRun) }, (_, i) => {
      const own = prompts.slice(i * promptsPerRun, (i + 1) * promptsPerRun);
      return { prompts: own, shared: commonPrefix(own, firstTrainedId) >= sharedPrefix ? sharedPrefix : 0 };
    });
  }

  /** Embeddings of a run; a short one is filled up with its first prompt. */
  #lookUp({ prompts, shared }: Run): Record<string, Tensor> {
    const filled = Array.from({ length: this.#plan.promptsPerRun }, (_, i) => prompts[i] ?? prompts[0]!);
    return {
      token_embeddings: this.#embeddings.lookUp(filled.map((ids) => ids.slice(shared))),
      ...(shared === 0 ? {} : { prefix_embeddings: this.#embeddings.lookUp([prompts[0]!.slice(0, shared)]) }),
    };
  }

  /** Room for the activations of the run at this place of a batch; null where those up to it would take too much. */
  #activations(run: Run, place: number): Activations | null {
    const { kept } = this.#halves(run);
    const { keptBytes = 2 ** 30 } = this.#plan;
    const bytes = kept.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
    if (place > 0 && (place + 1) * bytes > keptBytes) return null;
    const key = `${keyOf(run)} ${place}`;
    const room =
      this.#kept.get(key) ??
      Object.fromEntries(kept.map((value) => [keptName(value), new Float32Array(sizeOf(value.shape))]));
    this.#kept.set(key, room);
    return room;
  }

  #halves(run: Run): SplitGraph {
    const key = keyOf(run);
    let graphs = this.#graphs.get(key);
    if (graphs === undefined) {
      const { ranks, firstTrainedId, promptsPerRun } = this.#plan;
      const size = { batch: promptsPerRun, tokens: run.prompts[0]!.length, sharedPrefix: run.shared };
      graphs = buildTextHalves(this.#encoder, size, ranks, firstTrainedId !== null);
      this.#graphs.set(key, graphs);
    }
    return graphs;
  }

  #session(run: Run, half: 'first' | 'second'): Promise<GraphSession> {
    const key = `${keyOf(run)} ${half}`;
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const { threads } = this.#plan;
      session = GraphSession.create(this.#halves(run)[half], {
        lean: true,
        ...(threads === undefined ? {} : { threads }),
      });
      this.#sessions.set(key, session);
    }
    return session;
  }
}

const keyOf = ({ prompts, shared }: Run): string => `${prompts[0]!.length} ${shared}`;

function addTo(sum: Float32Array, other: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += other[i]!;
}
