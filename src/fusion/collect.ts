/**
 * Statistics of a run: Gram matrices of layer inputs, summed as the features appear. No feature outlives its step.
 * Each function runs one network with given deltas and returns one matrix per layer asked for; layers that read
 * the same input share one matrix.
 */
import { ShapeError } from '../errors.ts';
import { mul } from '../graph/ops/elementwise.ts';
import { GraphSession } from '../graph/session.ts';
import type { Value } from '../graph/value.ts';
import { type Gram, GramAccumulator, gramSize, toDenseGram } from '../linalg/gram.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { encodeText } from '../models/clip/encode-text.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas } from '../models/lora.ts';
import { linearLayers } from '../models/unet/structure.ts';
import { buildUnet } from '../models/unet/unet.ts';
import { runSampler, type Sampler } from '../sampling/samplers/sampler.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';

/** Gram matrices by layer name, and the feature rows behind each. */
export interface LayerGrams {
  readonly grams: ReadonlyMap<string, Gram>;
  readonly rows: ReadonlyMap<string, number>;
}

/** Sums per distinct input; layers with one input point at one sum. */
class GramSums {
  readonly #sums = new Map<string, GramAccumulator>();
  readonly #inputOf: ReadonlyMap<string, string>;

  constructor(inputOf: ReadonlyMap<string, string>) {
    this.#inputOf = inputOf;
  }

  add(outputs: Readonly<Record<string, Tensor>>, rowsOf: (layerName: string) => number): void {
    const done = new Set<string>();
    for (const [layerName, input] of this.#inputOf) {
      if (done.has(input)) continue;
      done.add(input);
      const { shape, data } = outputs[input]!;
      const sum = this.#sums.get(input) ?? new GramAccumulator(shape[0]!);
      sum.addGram(data as Float32Array, rowsOf(layerName));
      this.#sums.set(input, sum);
    }
  }

  finish(): LayerGrams {
    const packed = new Map([...this.#sums].map(([input, sum]) => [input, sum.toPackedFloat32()]));
    return {
      grams: new Map([...this.#inputOf].map(([layerName, input]) => [layerName, packed.get(input)!])),
      rows: new Map([...this.#inputOf].map(([layerName, input]) => [layerName, this.#sums.get(input)!.rows])),
    };
  }
}

/**
 * Inputs of text encoder layers over all tokens of all prompts. Prompts may differ in length: they run padded, which
 * a causal encoder's earlier rows do not see, and the padding's own rows count nothing.
 */
export async function collectText(
  base: Checkpoint,
  embeddings: TokenEmbeddings,
  prompts: readonly (readonly number[])[],
  deltas: LayerDeltas,
  layers: readonly string[],
): Promise<LayerGrams> {
  if (layers.length === 0) return { grams: new Map(), rows: new Map() };
  const tokens = Math.max(...prompts.map((ids) => ids.length));
  const padded = prompts.map((ids) => [...ids, ...Array(tokens - ids.length).fill(base.tokenizer.padId)]);
  const weights = float32([prompts.length * tokens, 1]);
  prompts.forEach((ids, b) => {
    weights.data.fill(1, b * tokens, b * tokens + ids.length);
  });
  let rowWeights: Value | null = null;
  const { outputs, probes } = await encodeText(base.textEncoder, embeddings, padded, {
    deltas,
    probes: {
      grams: layers,
      weighRows: (g, rows) => {
        rowWeights ??= g.input('row_weights', 'float32', weights.shape);
        return mul(g, rows, rowWeights);
      },
    },
    feeds: { row_weights: weights },
  });
  const sums = new GramSums(probes.grams);
  const rowCount = prompts.reduce((sum, ids) => sum + ids.length, 0);
  sums.add(outputs, () => rowCount);
  return sums.finish();
}

/** Text features per cross-attention layer, [1, L, T, D]. */
export type LayerContexts = Tensor<Float32Array>;

/**
 * Inputs of K and V: the features of chosen token rows, per cross-attention layer.
 * @param prompts      ids per prompt and cross-attention layer: `prompts[p][layer]`
 * @param rowsOf       positions to take of one list of ids
 * @param crossLayers  names of the cross-attentions (`….attn2`) in context order
 * @returns one matrix per cross-attention, under both `….to_k` and `….to_v`
 */
export async function collectCross(
  base: Checkpoint,
  embeddings: TokenEmbeddings,
  prompts: readonly (readonly (readonly number[])[])[],
  textDeltas: LayerDeltas,
  rowsOf: (ids: readonly number[]) => readonly number[],
  crossLayers: readonly string[],
): Promise<LayerGrams> {
  const sums = crossLayers.map(() => new GramAccumulator(embeddings.width));
  for (const perLayer of prompts) {
    if (perLayer.length !== crossLayers.length) {
      throw new ShapeError(
        `internal: ${perLayer.length} layer prompts for ${crossLayers.length} cross-attentions`,
      );
    }
    const { hiddenStates } = await encodeText(base.textEncoder, embeddings, perLayer, { deltas: textDeltas });
    const [, tokens, width] = hiddenStates.shape as [number, number, number];
    perLayer.forEach((ids, layer) => {
      for (const row of rowsOf(ids)) {
        const start = (layer * tokens + row) * width;
        sums[layer]!.addRows(hiddenStates.data.subarray(start, start + width));
      }
    });
  }
  return sharedByKeysAndValues(crossLayers, sums);
}

/** One matrix per cross-attention under the names of the two layers that read it. */
function sharedByKeysAndValues(crossLayers: readonly string[], sums: readonly GramAccumulator[]): LayerGrams {
  const grams = new Map<string, Gram>();
  const rows = new Map<string, number>();
  crossLayers.forEach((name, layer) => {
    // In full: a few rows against D inputs make a singular matrix, whose small ridge float32 would drown.
    const gram = sums[layer]!.toMatrix();
    for (const layerName of [`${name}.to_k`, `${name}.to_v`]) {
      grams.set(layerName, gram);
      rows.set(layerName, sums[layer]!.rows);
    }
  });
  return { grams, rows };
}

/** Generic captions as K and V see them: all rows of all captions, the same for every cross-attention. */
export async function collectCrossPrior(
  base: Checkpoint,
  embeddings: TokenEmbeddings,
  captions: readonly (readonly number[])[],
  crossLayers: readonly string[],
): Promise<LayerGrams> {
  const sum = new GramAccumulator(embeddings.width);
  const { hiddenStates } = await encodeText(base.textEncoder, embeddings, captions);
  sum.addRows(hiddenStates.data);
  return sharedByKeysAndValues(
    crossLayers,
    crossLayers.map(() => sum),
  );
}

/** What one denoising run needs. */
export interface DenoisingRun {
  /** Text features [1, L, T, D]. */
  readonly context: LayerContexts;
  /** Features of the empty prompt in the base model, [1, L, T, D]; used by guided runs only. */
  readonly emptyContext: LayerContexts;
  /** Initial noise [4 · h · w], standard normal. */
  readonly noise: Float32Array;
  /** For progress. */
  readonly subject: string;
}

/** What denoising runs have shown: the features of the prompt, and for guided runs those of the empty prompt. */
export interface SpatialGrams {
  /** Inputs of the layers in the model with its deltas, under the prompt. */
  readonly prompt: LayerGrams;
  /** Inputs in the base model, under the empty prompt, on the same latents; null for runs without guidance. */
  readonly empty: LayerGrams | null;
}

/** The UNet with its deltas, kept loaded over several denoising runs; dispose it when done. */
export interface SpatialCollector {
  /** Denoise once from noise, adding the features of every step to the sums. */
  run(run: DenoisingRun, onStep?: () => void): Promise<void>;
  finish(): SpatialGrams;
  dispose(): Promise<void>;
}

export interface SpatialSettings {
  /** 20 steps of DPM-Solver++ 2M in the reference. */
  readonly sampler: Sampler;
  /** Height and width of the latents. */
  readonly latentSize: { readonly height: number; readonly width: number };
  /** 1 denoises by the prompt alone, as the reference does. */
  readonly guidanceScale: number;
  readonly signal?: AbortSignal;
}

/**
 * Prepare the collection of spatial inputs: denoising, picture by picture. A guided run steers away from what the
 * *base* predicts for the empty prompt: so do pictures of a fused model whose empty prompt was preserved, and these
 * are the latents on which it has to be.
 * @param deltas of the model the features are collected in
 * @param layers whose inputs are wanted
 */
export async function spatialCollector(
  base: Checkpoint,
  deltas: LayerDeltas,
  layers: readonly string[],
  { sampler, latentSize: { height, width }, guidanceScale, signal }: SpatialSettings,
): Promise<SpatialCollector> {
  const { config, weights } = base.unet;
  const loraRanks = deltaRanks(deltas);
  const tokens = base.textEncoder.config.maxPositions;
  const guided = guidanceScale !== 1;
  const size = { batch: 1, latentHeight: height, latentWidth: width, tokens };
  const network = buildUnet(weights, config, size, { loraRanks, probes: { grams: layers } });
  const session = await GraphSession.create(network.graph);
  const shapes = linearLayers(config);
  const ownFeeds = deltaFeeds(deltas, loraRanks, shapes);
  const baseFeeds = deltaFeeds(new Map(), loraRanks, shapes);
  const promptSums = new GramSums(network.probes.grams);
  const emptySums = new GramSums(network.probes.grams);
  const predict = async (
    latents: Float32Array,
    timestep: number,
    context: LayerContexts,
    feeds: Readonly<Record<string, Tensor>>,
    sums: GramSums,
  ): Promise<Float32Array> => {
    const outputs = await session.run({
      sample: float32([1, config.inChannels, height, width], latents),
      timestep: float32([1], [timestep]),
      encoder_hidden_states: context,
      ...feeds,
    });
    sums.add(outputs, (layerName) => network.probes.gramRows.get(layerName)!);
    return outputs.noise_pred!.data as Float32Array;
  };
  return {
    run: async ({ context, emptyContext, noise }, onStep) => {
      const start = noise.map((value) => value * sampler.initNoiseSigma);
      await runSampler(sampler, start, {
        ...(signal === undefined ? {} : { signal }),
        onStep: () => onStep?.(),
        denoise: async (latents, timestep) => {
          const prompted = await predict(latents, timestep, context, ownFeeds, promptSums);
          if (!guided) return prompted;
          const empty = await predict(latents, timestep, emptyContext, baseFeeds, emptySums);
          return prompted.map((value, i) => empty[i]! + guidanceScale * (value - empty[i]!));
        },
      });
    },
    finish: () => ({ prompt: promptSums.finish(), empty: guided ? emptySums.finish() : null }),
    dispose: () => session.dispose(),
  };
}

/** Statistics of several sets of features together. */
export function addGrams(parts: readonly LayerGrams[]): LayerGrams {
  const sums = new Map<string, GramAccumulator>();
  const shared = new Map<string, Gram>();
  const grams = new Map<string, Gram>();
  const rows = new Map<string, number>();
  const firsts = new Map<Gram, string>();
  for (const layerName of parts[0]?.grams.keys() ?? []) {
    // Layers with one input share one matrix; sum it once.
    const key = firsts.get(parts[0]!.grams.get(layerName)!) ?? layerName;
    firsts.set(parts[0]!.grams.get(layerName)!, key);
    if (!sums.has(key)) {
      const sum = new GramAccumulator(gramSize(parts[0]!.grams.get(layerName)!));
      for (const part of parts)
        sum.addGram(toDenseGram(part.grams.get(layerName)!).data, part.rows.get(layerName)!);
      sums.set(key, sum);
      shared.set(key, sum.toPackedFloat32());
    }
    grams.set(layerName, shared.get(key)!);
    rows.set(layerName, sums.get(key)!.rows);
  }
  return { grams, rows };
}
