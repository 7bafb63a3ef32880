/**
 * Loss and gradients of one batch: text features, the UNet with its loss, and back through the text encoder. The
 * graphs are loaded once per picture size and run with whatever the trained tensors are at the time.
 */

import { gradientOutput } from '../graph/gradient-outputs.ts';
import type { Checkpoint, ModelPart } from '../models/checkpoint.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { type ComponentId, type LayerId, outside, within } from '../models/families/layer-table.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import { attentionPlaces, levelSizes } from '../models/unet/structure.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { LoadedGraphs } from '../runtime/loaded-graphs.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { attentionTargets, wordPositions } from './attention-regularization.ts';
import {
  type FactorFeeds,
  type FactorGradients,
  factorFeeds,
  factorGradients,
  type ModelFactors,
} from './factor-gradients.ts';
import type { Ids } from './prompt-prefix.ts';
import { TextStep } from './text-step.ts';
import { buildUnetStep, type UnetGraphOptions } from './unet-graph.ts';

export interface StepPlan extends Omit<UnetGraphOptions, 'ranks' | 'contextGradient'> {
  /** Trained layers of the base, with the ranks of their factors. */
  readonly ranks: ReadonlyMap<LayerId, number>;
  /** First token id whose embedding is trained; these ids follow the vocabulary. Null: no embedding is. */
  readonly firstTrainedId: number | null;
  /** Positions at the beginning that a row's prompts share, see text-step.ts. */
  readonly sharedPrefix: number;
  /** Weight of the attention regularisation; only with `attention`. */
  readonly attentionWeight: number;
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
  /** Token ids of each row: one list per cross-attention layer, or one for all. Padded to the model's positions, or to a multiple. */
  readonly prompts: readonly (readonly (readonly number[])[])[];
  /** For the attention regularisation: masks [B, h, w], and where each row has the two words. */
  readonly attention?: {
    readonly masks: Float32Array;
    readonly words: readonly (readonly [number, number] | null)[];
  };
}

export interface StepResult {
  readonly loss: number;
  /** Weighted squares per row. */
  readonly errors: Float32Array;
  /** Of every trained layer. */
  readonly factors: ReadonlyMap<LayerId, FactorGradients>;
  /** [trained rows, D]; rows that no prompt of the batch has are zero. Null if none are trained. */
  readonly embeddings: Float32Array | null;
  /** Every output of the UNet's graph that is not a gradient. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

export class TrainingStep {
  readonly #unet: ModelPart<UnetConfig>;
  readonly #plan: StepPlan;
  /** Ranks of the UNet's layers, by name. */
  readonly #unetRanks: ReadonlyMap<string, number>;
  readonly #textId: ComponentId;
  readonly #text: TextStep;
  /** Positions of one run of the text encoder, 77. */
  readonly #window: number;
  /** The UNet's graphs by size. */
  readonly #graphs: LoadedGraphs;

  /**
   * @param embeddings  the token table; the trained rows behind it are read anew at every step
   * @param trainedRows number of rows behind the vocabulary
   */
  constructor(
    base: Checkpoint,
    embeddings: TokenEmbeddings,
    trainedRows: number,
    plan: StepPlan,
    execution: ExecutionContext = executionContext(),
  ) {
    this.#unet = base.parts.unet;
    this.#window = base.parts.maxPositions;
    this.#plan = plan;
    const { ranks, firstTrainedId, layerwise, sharedPrefix } = plan;
    const { textEncoder, textEncoderId } = base.parts;
    this.#unetRanks = within('unet', ranks);
    this.#textId = textEncoderId;
    this.#text = new TextStep(
      textEncoder,
      embeddings,
      {
        ranks: within(this.#textId, ranks),
        firstTrainedId,
        trainedRows,
        // Those of one row.
        promptsPerRun: layerwise ? attentionPlaces(base.parts.unet.config).length : 1,
        sharedPrefix,
      },
      execution,
    );
    this.#graphs = new LoadedGraphs(execution.runtime, 'training', execution);
  }

  /** @throws {ShapeError} if the batch or the factors do not fit the plan */
  async run(batch: StepBatch, factors: ModelFactors): Promise<StepResult> {
    const textFactors = factorFeeds(this.#textId, factors);
    const windows = batch.prompts.flat().flatMap((ids) => this.#windows(ids));
    const features = await this.#text.features(windows, textFactors);
    const outputs = await this.#runUnet(batch, windows, features, factorFeeds('unet', factors));
    const dContext = outputs[gradientOutput('encoder_hidden_states')] as Tensor<Float32Array> | undefined;
    const text =
      dContext === undefined
        ? { factors: new Map<string, FactorGradients>(), embeddings: null }
        : await this.#text.gradients(windows, dContext, textFactors);
    return {
      loss: (outputs.loss!.data as Float32Array)[0]!,
      errors: outputs.errors!.data as Float32Array,
      factors: new Map([
        ...outside('unet', factorGradients(this.#unetRanks.keys(), outputs)),
        ...outside(this.#textId, text.factors),
      ]),
      embeddings: text.embeddings,
      outputs: Object.fromEntries(Object.entries(outputs).filter(([name]) => !name.startsWith('d:'))),
    };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    await this.#text.dispose();
    await this.#graphs.dispose();
  }

  /** A prompt as the text encoder sees it: as many positions at once as the model has. */
  #windows(ids: Ids): Ids[] {
    return Array.from({ length: Math.ceil(ids.length / this.#window) }, (_, i) =>
      ids.slice(i * this.#window, (i + 1) * this.#window),
    );
  }

  async #runUnet(
    batch: StepBatch,
    windows: readonly Ids[],
    features: ReadonlyMap<string, Float32Array>,
    factors: FactorFeeds,
  ): Promise<Record<string, Tensor>> {
    const { config } = this.#unet;
    const { attention, attentionWeight, layerwise } = this.#plan;
    const { latentHeight, latentWidth, timesteps, prompts } = batch;
    const rows = timesteps.length;
    const tokens = prompts[0]![0]!.length;
    const width = config.crossAttentionDim;
    const context = float32(layerwise ? [rows, prompts[0]!.length, tokens, width] : [rows, tokens, width]);
    windows.forEach((ids, i) => {
      context.data.set(features.get(ids.join())!, i * ids.length * width);
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
      const levels = new Map(attentionPlaces(config).map(({ level }) => [level, sizes[level]!]));
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
    const session = await this.#session(rows, latentHeight, latentWidth, tokens);
    return session.run(feeds);
  }

  #session(rows: number, latentHeight: number, latentWidth: number, tokens: number): Promise<LoadedGraph> {
    const key = [rows, latentHeight, latentWidth, tokens].join();
    return this.#graphs.get(key, () =>
      buildUnetStep(
        this.#unet,
        { batch: rows, latentHeight, latentWidth, tokens },
        { ...this.#plan, ranks: this.#unetRanks, contextGradient: this.#text.trains },
      ),
    );
  }
}
