/**
 * Loss and gradients of one batch: text features, the UNet with its loss, and back through the text encoder. The
 * graphs are loaded once per picture size and run with whatever the trained tensors are at the time.
 */

import { gradientOutput } from '../graph/gradient-outputs.ts';
import type { Checkpoint, ModelPart } from '../models/checkpoint.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { type ComponentId, type LayerId, outside, within } from '../models/families/layer-table.ts';
import type { PromptIds } from '../models/families/prompt-ids.ts';
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
import { type TextFeatures, type TextSeed, TextStep } from './text-step.ts';
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
  /**
   * Token ids of each row for every text encoder: one prompt per cross-attention layer, or one for all. Padded to the model's
   * positions, or to a multiple.
   */
  readonly prompts: readonly (readonly PromptIds[])[];
  /** Sizes of each row's picture, [B, 6], for UNets that read them. */
  readonly timeIds?: Tensor<Float32Array>;
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
  /** By text encoder, [trained rows, D]; rows that no prompt of the batch has are zero. Empty if none are trained. */
  readonly embeddings: ReadonlyMap<ComponentId, Float32Array>;
  /** Every output of the UNet's graph that is not a gradient. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

export class TrainingStep {
  readonly #unet: ModelPart<UnetConfig>;
  readonly #plan: StepPlan;
  /** Ranks of the UNet's layers, by name. */
  readonly #unetRanks: ReadonlyMap<string, number>;
  readonly #texts: ReadonlyMap<ComponentId, TextStep>;
  /** Positions of one run of a text encoder, 77. */
  readonly #window: number;
  /** The UNet's graphs by size. */
  readonly #graphs: LoadedGraphs;

  /**
   * @param embeddings  the token table of every text encoder; the trained rows behind it are read anew at every step
   * @param trainedRows number of rows behind the vocabulary
   */
  constructor(
    base: Checkpoint,
    embeddings: ReadonlyMap<ComponentId, TokenEmbeddings>,
    trainedRows: number,
    plan: StepPlan,
    execution: ExecutionContext = executionContext(),
  ) {
    this.#unet = base.parts.unet;
    this.#window = base.parts.maxPositions;
    this.#plan = plan;
    const { ranks, firstTrainedId, layerwise, sharedPrefix } = plan;
    this.#unetRanks = within('unet', ranks);
    const { textReading } = base.family.base;
    this.#texts = new Map(
      [...base.parts.textEncoders].map(([id, part]) => {
        const own = {
          ranks: within(id, ranks),
          firstTrainedId,
          trainedRows,
          // Those of one row.
          prompts: layerwise ? attentionPlaces(base.parts.unet.config).length : 1,
          sharedPrefix,
        };
        return [id, new TextStep(part, textReading, embeddings.get(id)!, own, execution)];
      }),
    );
    this.#graphs = new LoadedGraphs(execution.runtime, 'training', execution);
  }

  /** @throws {ShapeError} if the batch or the factors do not fit the plan */
  async run(batch: StepBatch, factors: ModelFactors): Promise<StepResult> {
    const all = batch.prompts.flat();
    const readings: TextReadings[] = [];
    for (const [e, [id, step]] of [...this.#texts].entries()) {
      const windows = all.flatMap((prompt) => this.#windows(prompt[e]!));
      readings.push({ id, step, windows, features: await step.features(windows, factorFeeds(id, factors)) });
    }
    const outputs = await this.#runUnet(batch, readings, factorFeeds('unet', factors));
    const seeds = this.#seeds(batch, readings, outputs);
    const layers = new Map<LayerId, FactorGradients>(
      outside('unet', factorGradients(this.#unetRanks.keys(), outputs)),
    );
    const embeddings = new Map<ComponentId, Float32Array>();
    for (const [e, { id, step }] of readings.entries()) {
      if (seeds === null) continue;
      const own = await step.gradients(seeds[e]!, factorFeeds(id, factors));
      for (const [layer, gradient] of outside(id, own.factors)) layers.set(layer, gradient);
      if (own.embeddings !== null) embeddings.set(id, own.embeddings);
    }
    return {
      loss: (outputs.loss!.data as Float32Array)[0]!,
      errors: outputs.errors!.data as Float32Array,
      factors: layers,
      embeddings,
      outputs: Object.fromEntries(Object.entries(outputs).filter(([name]) => !name.startsWith('d:'))),
    };
  }

  /** Free all loaded graphs. */
  async dispose(): Promise<void> {
    for (const step of this.#texts.values()) await step.dispose();
    await this.#graphs.dispose();
  }

  /** A prompt as the text encoder sees it: as many positions at once as the model has. */
  #windows(ids: Ids): Ids[] {
    return Array.from({ length: Math.ceil(ids.length / this.#window) }, (_, i) =>
      ids.slice(i * this.#window, (i + 1) * this.#window),
    );
  }

  get #trainsText(): boolean {
    return [...this.#texts.values()].some((step) => step.trains);
  }

  /** Gradients of what each text encoder gave, prompt by prompt; null where nothing of the text is trained. */
  #seeds(
    { timesteps }: StepBatch,
    readings: readonly TextReadings[],
    outputs: Readonly<Record<string, Tensor>>,
  ): TextSeed[][] | null {
    const dContext = outputs[gradientOutput('encoder_hidden_states')] as Tensor<Float32Array> | undefined;
    if (dContext === undefined) return null;
    const dPooled = outputs[gradientOutput('text_embeds')] as Tensor<Float32Array> | undefined;
    const width = this.#unet.config.crossAttentionDim;
    let offset = 0;
    return readings.map(({ step, windows }) => {
      const perRow = windows.length / timesteps.length;
      const own = windows.map((ids, i): TextSeed => {
        const place = { first: i * ids.length, width, offset, columns: step.width };
        const row = i / perRow;
        const pools = step.pools && dPooled !== undefined && Number.isInteger(row);
        const size = pools ? dPooled.data.length / timesteps.length : 0;
        return {
          ids,
          states: takenColumns(dContext.data, ids.length, place),
          pooled: pools ? dPooled.data.slice(row * size, (row + 1) * size) : null,
        };
      });
      offset += step.width;
      return own;
    });
  }

  async #runUnet(
    batch: StepBatch,
    readings: readonly TextReadings[],
    factors: FactorFeeds,
  ): Promise<Record<string, Tensor>> {
    const { config } = this.#unet;
    const { attention, attentionWeight, layerwise } = this.#plan;
    const { latentHeight, latentWidth, timesteps, prompts } = batch;
    const rows = timesteps.length;
    const tokens = prompts[0]![0]![0]!.length;
    const width = config.crossAttentionDim;
    const context = float32(layerwise ? [rows, prompts[0]!.length, tokens, width] : [rows, tokens, width]);
    let offset = 0;
    for (const { step, windows, features } of readings) {
      windows.forEach((ids, i) => {
        const { states } = features.get(ids.join())!;
        placeColumns(context.data, states, { first: i * ids.length, width, offset, columns: step.width });
      });
      offset += step.width;
    }
    const pooled = readings.find(({ step }) => step.pools);
    const shape = [rows, config.inChannels, latentHeight, latentWidth];
    const feeds: Record<string, Tensor> = {
      sample: float32(shape, batch.noisy),
      timestep: float32([rows], timesteps),
      encoder_hidden_states: context,
      ...(pooled === undefined ? {} : { text_embeds: pooledOf(pooled, rows) }),
      ...(batch.timeIds === undefined ? {} : { time_ids: batch.timeIds }),
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
        { ...this.#plan, ranks: this.#unetRanks, contextGradient: this.#trainsText },
      ),
    );
  }
}

/** What one text encoder reads in a step. */
interface TextReadings {
  readonly id: ComponentId;
  readonly step: TextStep;
  /** Of all rows and layers, one after the other; the vector of a row is that of its first. */
  readonly windows: readonly Ids[];
  readonly features: ReadonlyMap<string, TextFeatures>;
}

/** The vector of every row, [B, P]. */
function pooledOf({ windows, features }: TextReadings, rows: number): Tensor<Float32Array> {
  const perRow = windows.length / rows;
  const own = Array.from({ length: rows }, (_, row) => features.get(windows[row * perRow]!.join())!.pooled!);
  const all = float32([rows, own[0]!.length]);
  own.forEach((vector, row) => {
    all.data.set(vector, row * vector.length);
  });
  return all;
}

/** Columns of one text encoder among those of all, from a row on. */
interface ColumnPlace {
  readonly first: number;
  /** Of all columns. */
  readonly width: number;
  readonly offset: number;
  readonly columns: number;
}

function placeColumns(
  into: Float32Array,
  own: Float32Array,
  { first, width, offset, columns }: ColumnPlace,
): void {
  for (let row = 0; row < own.length / columns; row++) {
    into.set(own.subarray(row * columns, (row + 1) * columns), (first + row) * width + offset);
  }
}

function takenColumns(
  from: Float32Array,
  rows: number,
  { first, width, offset, columns }: ColumnPlace,
): Float32Array {
  const own = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const at = (first + row) * width + offset;
    own.set(from.subarray(at, at + columns), row * columns);
  }
  return own;
}
