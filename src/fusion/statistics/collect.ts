/**
 * Features of networks as they run: which sums one run of a network adds to. Each function runs one network with given
 * deltas; layers that read the same input share one sum.
 */

import { ShapeError } from '../../errors.ts';
import type { GraphBuilder } from '../../graph/builder.ts';
import { mul } from '../../graph/ops/elementwise.ts';
import { matmul } from '../../graph/ops/matmul.ts';
import { reshape } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { GramAccumulator } from '../../linalg/gram.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { encodeText } from '../../models/clip/encode-text.ts';
import { pooledPosition, TokenEmbeddings } from '../../models/clip/text-encoder.ts';
import {
  type Conditioning,
  conditioningFeeds,
  type TokenEncoder,
  type TokenEncoderOptions,
} from '../../models/families/conditioning.ts';
import { within } from '../../models/families/layer-table.ts';
import type { TextPart } from '../../models/families/model-part.ts';
import type { PromptIds, TokenIds } from '../../models/families/prompt-ids.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas, type ModelDeltas } from '../../models/lora.ts';
import type { FeatureProbe, Probes } from '../../models/network.ts';
import { buildUnet } from '../../models/unet/unet.ts';
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import { GraphInParts } from '../../runtime/graph-in-parts.ts';
import { GuidedRows } from '../../sampling/guided-rows.ts';
import { type Pass, runGuided } from '../../sampling/guided-run.ts';
import type { Sampler } from '../../sampling/samplers/sampler.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { idInStage, nameInStage } from '../stage.ts';
import { areFewRows, FeatureSums, type SumState } from './feature-sums.ts';
import { areSmallerAsRows, RowGrams } from './row-grams.ts';
import { NO_STATISTICS, type StageStatistics } from './statistics.ts';

/** Layer → its input. */
function inputsOf({ features }: Probes): ReadonlyMap<string, string> {
  return new Map([...features].map(([layerName, { input }]) => [layerName, input]));
}

/** Distinct inputs, in the order of their first layers. */
const distinct = ({ features }: Probes): ReadonlySet<FeatureProbe> => new Set(features.values());

/**
 * Inputs of text encoder layers over all tokens of all prompts, each text encoder by its own ids. Prompts may differ in length: they
 * run padded, which a causal encoder's earlier rows do not see, and the padding's own rows count nothing. All layers of an encoder
 * run, also where pictures are drawn by an earlier state.
 * @param layers by their names in the stage
 */
export async function collectText(
  { parts }: Pick<Checkpoint, 'parts'>,
  added: TokenEncoderOptions['added'],
  prompts: readonly PromptIds[],
  deltas: ModelDeltas,
  layers: readonly string[],
  execution: ExecutionContext = executionContext(),
): Promise<StageStatistics> {
  if (layers.length === 0) return NO_STATISTICS;
  const inputOf = new Map<string, string>();
  const sums = new FeatureSums(inputOf);
  const wanted = new Set(layers.map((name) => idInStage('text', name)));
  const { texts, places } = withoutRepetitions(prompts);
  for (const [encoder, [id, part]] of [...parts.textEncoders].entries()) {
    const own = [...part.layers.values()].filter((layer) => wanted.has(layer.id));
    if (own.length === 0) continue;
    const read: EncoderTexts = {
      ids: texts.map((prompt) => prompt[encoder]!),
      counts: texts.map((_, text) => places.filter((place) => place === text).length),
      embeddings: new TokenEmbeddings(part.weights, part.config, added?.(id)),
      deltas: within(id, deltas),
    };
    const named = (name: string): string => nameInStage('text', id, name);
    const names = own.map(({ layerName }) => layerName);
    for (const [layerName, input] of await addTextFeatures(sums, part, read, names, named, execution)) {
      inputOf.set(named(layerName), named(input));
    }
  }
  return sums.finish();
}

/** Layer prompts of a LoRA without words of its own are all the same: those that differ, and which of them each one is. */
function withoutRepetitions(prompts: readonly PromptIds[]): { texts: PromptIds[]; places: number[] } {
  const known = new Map<string, number>();
  const texts: PromptIds[] = [];
  const places = prompts.map((prompt) => {
    const key = JSON.stringify(prompt);
    const place = known.get(key) ?? texts.push(prompt) - 1;
    known.set(key, place);
    return place;
  });
  return { texts, places };
}

/** What one text encoder reads, and how. */
interface EncoderTexts {
  readonly ids: readonly TokenIds[];
  /** How often each counts. */
  readonly counts: readonly number[];
  readonly embeddings: TokenEmbeddings;
  readonly deltas: LayerDeltas;
}

/** @returns layer → its input, as the encoder itself calls them; the sums know the latter by `named` */
async function addTextFeatures(
  sums: FeatureSums,
  part: TextPart,
  { ids: prompts, counts, embeddings, deltas }: EncoderTexts,
  layers: readonly string[],
  named: (input: string) => string,
  execution: ExecutionContext,
): Promise<ReadonlyMap<string, string>> {
  const { tokenizer } = part;
  const tokens = Math.max(...prompts.map((ids) => ids.length));
  const padded = prompts.map((ids) => [...ids, ...Array(tokens - ids.length).fill(tokenizer.padId)]);
  /** Of every row of tokens, and of the one row of each prompt that is projected. */
  const weights = float32([prompts.length * tokens, 1]);
  const weightsOfPrompts = float32([prompts.length, 1], counts.map(Math.sqrt));
  prompts.forEach((ids, b) => {
    weights.data.fill(weightsOfPrompts.data[b]!, b * tokens, b * tokens + ids.length);
  });
  const rowCount = prompts.reduce((sum, ids) => sum + ids.length, 0);
  // The projection reads one row of every prompt, none of them padding.
  const projects = layers.includes('text_projection');
  const isOfTokens = (rows: number): boolean => rows === weights.shape[0];
  const feeds: Record<string, Tensor> = {};
  const inputs = new Map<string, Value>();
  const { outputs, probes } = await encodeText(
    part,
    embeddings,
    padded,
    {
      deltas,
      ...(projects ? { pooledAt: prompts.map((ids) => pooledPosition(ids, part.config.eosTokenId)) } : {}),
      probes: {
        features: layers,
        keepRows: (rows, width) => areFewRows(isOfTokens(rows) ? rowCount : rows, width),
        weighRows: (g, rows) => {
          const [name, own] = isOfTokens(rows.shape[0]!)
            ? (['row_weights', weights] as const)
            : (['prompt_weights', weightsOfPrompts] as const);
          const input = inputs.get(name) ?? g.input(name, 'float32', own.shape);
          inputs.set(name, input);
          feeds[name] = own;
          return mul(g, rows, input);
        },
      },
      feeds,
    },
    execution,
  );
  for (const { input, output, form, rows, width } of distinct(probes)) {
    const { data } = outputs[output]!;
    const name = named(input);
    if (form === 'gram') {
      sums.addStrips(name, data as Float64Array, width, isOfTokens(rows) ? rowCount : rows);
    } else if (isOfTokens(rows)) {
      prompts.forEach((ids, b) => {
        const start = b * tokens * width;
        sums.addRows(name, (data as Float32Array).subarray(start, start + ids.length * width), width);
      });
    } else {
      sums.addRows(name, data as Float32Array, width);
    }
  }
  return inputsOf(probes);
}

type Feeds = Readonly<Record<string, Tensor>>;

/** K and V of one cross-attention read one input. */
function keysAndValues(crossLayers: readonly string[]): ReadonlyMap<string, string> {
  return new Map(
    crossLayers.flatMap((name) => [
      [`${name}.to_k`, name],
      [`${name}.to_v`, name],
    ]),
  );
}

/**
 * Inputs of K and V: the features of chosen token rows, per cross-attention layer, as rows.
 * @param prompts      ids per prompt and cross-attention layer: `prompts[p][layer]`
 * @param rowsOf       positions to take of one prompt
 * @param crossLayers  names of the cross-attentions (`….attn2`) in context order
 */
export async function collectCross(
  encoder: TokenEncoder,
  prompts: readonly (readonly PromptIds[])[],
  rowsOf: (ids: PromptIds) => readonly number[],
  crossLayers: readonly string[],
): Promise<StageStatistics> {
  const sums = new FeatureSums(keysAndValues(crossLayers));
  for (const perLayer of prompts) {
    if (perLayer.length !== crossLayers.length) {
      throw new ShapeError(
        `internal: ${perLayer.length} layer prompts for ${crossLayers.length} cross-attentions`,
      );
    }
    const { texts, places } = withoutRepetitions(perLayer);
    const { states } = await encoder.encode(texts);
    const [, tokens, width] = states.shape as [number, number, number];
    perLayer.forEach((ids, layer) => {
      for (const row of rowsOf(ids)) {
        const start = (places[layer]! * tokens + row) * width;
        sums.addRows(crossLayers[layer]!, states.data.subarray(start, start + width), width);
      }
    });
  }
  return sums.finish();
}

/** Generic captions as K and V see them: all rows of all captions, the same for every cross-attention. */
export async function collectCrossPrior(
  encoder: TokenEncoder,
  captions: readonly PromptIds[],
  crossLayers: readonly string[],
): Promise<StageStatistics> {
  const { states } = await encoder.encode(captions);
  const [, , width] = states.shape as [number, number, number];
  const input = 'encoder_hidden_states';
  const sums = new FeatureSums(
    new Map([...keysAndValues(crossLayers).keys()].map((layerName) => [layerName, input])),
  );
  const rows = states.data.length / width;
  if (areFewRows(rows, width)) {
    sums.addRows(input, states.data, width);
  } else {
    const sum = new GramAccumulator(width);
    sum.addRows(states.data);
    sums.addGram(input, sum.toMatrix().data, rows);
  }
  return sums.finish();
}

/** What one denoising run needs. */
export interface DenoisingRun {
  /** Of one row. */
  readonly conditioning: Conditioning;
  /** That of the empty prompt in the base model; used by guided runs only. */
  readonly empty: Conditioning;
  /** Initial noise [4 · h · w], standard normal. */
  readonly noise: Float32Array;
  /** For progress. */
  readonly subject: string;
}

/** A collection of spatial inputs between two steps: enough to go on to the same bytes. */
export interface SpatialState {
  /** Runs that are complete. */
  readonly runsDone: number;
  /** What the network predicted in each finished step of the run under way, guidance inside. */
  readonly predictions: readonly Float32Array[];
  readonly sums: ReadonlyMap<string, SumState>;
}

export interface SpatialSettings {
  /** 20 steps of DPM-Solver++ 2M in the reference. */
  readonly sampler: Sampler;
  /** Height and width of the latents. */
  readonly latentSize: { readonly height: number; readonly width: number };
  /** 1 or less denoises by the prompt alone, as the reference does. */
  readonly guidanceScale: number;
  /**
   * Guided runs: the rows that count are x_empty + contrast · (x_prompt − x_empty), position by position; `null`: both
   * as they are.
   */
  readonly contrast: number | null;
  /** Where an earlier collection of the same runs stopped. */
  readonly resume?: SpatialState | null;
  /** Called after each step; `state()` tells where it is, or null once a later step has added to the sums. */
  readonly onStep?: (subject: string, state: () => SpatialState | null) => void | Promise<void>;
  /** Weights that are in memory at a time, about. Default as graph-in-parts.ts says. */
  readonly partBytes?: number;
}

/**
 * Inputs of spatial layers over denoising runs, picture by picture, in the model with its deltas. A guided run sees the
 * prompt and the empty prompt side by side in one batch, as guided sampling does.
 *
 * What a layer's output does to a guided picture is its prompted row less (1 − 1/g) of its unprompted one; both carry
 * nearly the same features. Rows of contrast weigh what tells them apart, and with it one concept from another.
 * @param deltas of the model the features are collected in; those of the UNet count
 * @param layers whose inputs are wanted
 */
export async function collectSpatial(
  base: Checkpoint,
  deltas: ModelDeltas,
  layers: readonly string[],
  runs: readonly DenoisingRun[],
  settings: SpatialSettings,
  execution: ExecutionContext = executionContext(),
): Promise<StageStatistics> {
  const { sampler, latentSize, guidanceScale, contrast, resume = null, onStep, partBytes } = settings;
  const { height, width } = latentSize;
  const { config, weights, layers: known } = base.parts.unet;
  const own = within('unet', deltas);
  const loraRanks = deltaRanks(own);
  const tokens = base.parts.maxPositions;
  const rows = new GuidedRows(1, { scale: guidanceScale });
  const size = { batch: rows.count, latentHeight: height, latentWidth: width, tokens };
  const contrasted = rows.guided && contrast !== null;
  /** Whether so many rows of a pass stay few in all passes. */
  const staysFew = (count: number, width: number): boolean =>
    areFewRows(count * sampler.timesteps.length * runs.length, width);
  const network = buildUnet(weights, config, size, {
    loraRanks,
    probes: {
      features: layers,
      keepRows: (count, width) => staysFew(count, width) || areSmallerAsRows(count, width),
      ...(contrasted ? { weighRows: (g, values) => contrastRows(g, values, contrast) } : {}),
    },
  });
  const session = new GraphInParts(network.graph, execution, { partBytes });
  const factors = deltaFeeds(own, loraRanks, known);
  const sums = new FeatureSums(inputsOf(network.probes));
  if (resume !== null) sums.restore(resume.sums);
  const grams = new RowGrams(execution);
  const probeOf = new Map([...distinct(network.probes)].map((probe) => [probe.output, probe]));
  /** Outputs of which the sums hold something. */
  let added = 0;
  const predict = async (pass: Pass, texts: Feeds): Promise<Float32Array> => {
    let prediction!: Float32Array;
    await session.run({ ...pass.feeds, ...texts, ...factors }, async (name, { data }) => {
      added++;
      const probe = probeOf.get(name);
      if (probe === undefined) {
        prediction = data as Float32Array;
        return;
      }
      const { input, form, rows: count, width } = probe;
      if (form === 'gram') sums.addStrips(input, data as Float64Array, width, count);
      else if (staysFew(count, width)) sums.addRows(input, data as Float32Array, width);
      else sums.addStrips(input, await grams.strips(data as Float32Array, width), width, count);
    });
    return prediction;
  };
  try {
    for (let done = resume?.runsDone ?? 0; done < runs.length; done++) {
      const { conditioning, empty, noise, subject } = runs[done]!;
      const texts = conditioningFeeds(rows.conditioning(empty, [conditioning]));
      const earlier = done === resume?.runsDone ? resume.predictions : [];
      const predictions: Float32Array[] = [];
      await runGuided({
        sampler,
        rows,
        shape: [config.inChannels, height, width],
        noise,
        known: earlier,
        signal: execution.signal,
        predict: (pass) => predict(pass, texts),
        onStep: async ({ index, prediction }) => {
          predictions.push(prediction.slice());
          const last = index + 1 === sampler.timesteps.length;
          const told = added;
          const state = (): SpatialState => ({
            runsDone: last ? done + 1 : done,
            predictions: last ? [] : [...predictions],
            sums: sums.state(),
          });
          await onStep?.(subject, () => (added === told ? state() : null));
        },
      });
    }
    return sums.finish();
  } finally {
    await grams.dispose();
    await session.dispose();
  }
}

/** Rows [2N, n], those of the empty prompt first, to x_empty + contrast · (x_prompt − x_empty), [N, n]; in one pass. */
function contrastRows(g: GraphBuilder, rows: Value, contrast: number): Value {
  const [count, n] = rows.shape as [number, number];
  const weights = g.constant(float32([1, 2], [1 - contrast, contrast]));
  const mixed = matmul(g, weights, reshape(g, rows, [2, (count / 2) * n]));
  return reshape(g, mixed, [count / 2, n]);
}
