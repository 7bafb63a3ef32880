/** Pictures for measurements on the miniature: plain DDIM with guidance, many prompts in one batch. */
import { type BoundVocabulary, bindConcepts } from '../../src/concepts/prompt.ts';
import type { Fusion } from '../../src/fusion/fusion.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { conditioningFeeds } from '../../src/models/families/conditioning.ts';
import { within } from '../../src/models/families/layer-table.ts';
import { deltaFeeds, deltaRanks, type ModelDeltas } from '../../src/models/lora.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { vaeFactor } from '../../src/models/vae/config.ts';
import { buildVaeDecoder } from '../../src/models/vae/decoder.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { checkpointSampler } from '../../src/sampling/checkpoint-schedule.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { runGuided } from '../../src/sampling/guided-run.ts';
import { createSampler } from '../../src/sampling/samplers/create.ts';
import type { Sampler } from '../../src/sampling/samplers/sampler.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import type { Picture } from '../support/shapeland/picture.ts';

/** A model to draw with: a base, changes on it, and the words it knows. */
export interface DrawingModel {
  readonly base: Checkpoint;
  readonly deltas: ModelDeltas;
  readonly vocabulary: BoundVocabulary;
  /** CPU threads of one operator; default the runtime's choice. */
  readonly threads?: number;
}

/** How pictures are denoised. */
export interface Sampling {
  readonly sampler: 'ddim' | 'dpmpp-2m';
  readonly steps: number;
}

export const SAMPLINGS = {
  ddim: { sampler: 'ddim', steps: 25 },
  /** A third of the work: finds single concepts as often (67, 67, 65 of 80 against 66, 69, 62). */
  fast: { sampler: 'dpmpp-2m', steps: 8 },
} as const satisfies Record<string, Sampling>;

export interface DrawOptions {
  /** Default DDIM, 25 steps. */
  readonly sampling?: Sampling;
  /** Default 4, as in the table of the miniature. */
  readonly guidanceScale?: number;
  readonly seed: number;
}

const BATCH = 24;

/** The base alone. */
export function plainModel(base: Checkpoint): DrawingModel {
  return { base, deltas: new Map(), vocabulary: bindConcepts(base.tokenizer, []) };
}

/** A fusion as a model. */
export function fusedModel({ base, layers, vocabulary }: Fusion): DrawingModel {
  const deltas = new Map([...layers].map(([id, { delta }]) => [id, delta]));
  return { base, deltas, vocabulary };
}

/** A prompt, or states of the text encoder in place of one, [T, D]. */
export type Drawable = string | Float32Array;

/** The same states for each cross-attention, [L, T, D]. */
function everyLayer(states: Float32Array, layers: number): Float32Array {
  const all = new Float32Array(layers * states.length);
  for (let layer = 0; layer < layers; layer++) all.set(states, layer * states.length);
  return all;
}

/** One picture per prompt, without a negative prompt. */
export async function draw(
  model: DrawingModel,
  prompts: readonly Drawable[],
  { sampling = SAMPLINGS.ddim, guidanceScale = 4, seed }: DrawOptions,
): Promise<Picture[]> {
  const { base, vocabulary } = model;
  const { sampleSize: size, inChannels } = base.parts.unet.config;
  const pixels = inChannels * size * size;
  const noise = new TorchGenerator(seed).randn(prompts.length * pixels);
  const sampler = createSampler(checkpointSampler(base, sampling.sampler), sampling.steps);
  const added = vocabulary.embeddingRows;
  const encoder = base.family.base.tokenEncoder(base.parts, { added, deltas: model.deltas });
  const encoded = new Map<string, Float32Array>();
  const encode = async (prompt: Drawable): Promise<Float32Array> => {
    if (typeof prompt !== 'string') return everyLayer(prompt, vocabulary.layerCount);
    const ids = vocabulary.promptIds(prompt);
    const states = encoded.get(prompt) ?? (await encoder.encode(ids)).states.data;
    encoded.set(prompt, states);
    return states;
  };
  const empty = await encode('');
  const pictures: Picture[] = [];
  for (let first = 0; first < prompts.length; first += BATCH) {
    const part = prompts.slice(first, first + BATCH);
    const contexts: Float32Array[] = [];
    for (const prompt of part) contexts.push(await encode(prompt));
    const latents = await denoise(
      model,
      sampler,
      contexts,
      empty,
      guidanceScale,
      noise.slice(first * pixels, (first + part.length) * pixels),
    );
    pictures.push(...(await decode(base, latents, part.length)));
  }
  return pictures;
}

async function denoise(
  { base, deltas, threads }: DrawingModel,
  sampler: Sampler,
  contexts: readonly Float32Array[],
  empty: Float32Array,
  guidanceScale: number,
  noise: Float32Array,
): Promise<Float32Array> {
  const { config, weights } = base.parts.unet;
  const { sampleSize: size, inChannels, crossAttentionDim: width } = config;
  const tokens = base.parts.maxPositions;
  const rows = new GuidedRows(contexts.length, { scale: guidanceScale });
  const unetDeltas = within('unet', deltas);
  const ranks = deltaRanks(unetDeltas);
  const network = buildUnet(
    weights,
    config,
    { batch: rows.count, latentHeight: size, latentWidth: size, tokens },
    { loraRanks: ranks },
  );
  const session = await defaultRuntime().load(network.graph, 'every-step', { threads });
  const text = (data: Float32Array) => ({
    context: float32([1, data.length / (tokens * width), tokens, width], data),
  });
  const fixed: Record<string, Tensor> = {
    ...conditioningFeeds(rows.conditioning(text(empty), contexts.map(text))),
    ...deltaFeeds(unetDeltas, ranks, base.parts.unet.layers),
  };
  const latents = await runGuided({
    sampler,
    rows,
    shape: [inChannels, size, size],
    noise,
    predict: async ({ feeds }) => {
      const { noise_pred } = await session.run({ ...feeds, ...fixed });
      return noise_pred!.data as Float32Array;
    },
  });
  await session.dispose();
  return latents;
}

async function decode(base: Checkpoint, latents: Float32Array, batch: number): Promise<Picture[]> {
  const { config, weights } = await base.parts.vae();
  const { sampleSize: size, inChannels } = base.parts.unet.config;
  const session = await defaultRuntime().load(
    buildVaeDecoder(weights, config, { batch, latentHeight: size, latentWidth: size }).graph,
    'once',
  );
  const scaled = latents.map((value) => value / config.scalingFactor);
  const { image } = await session.run({ latents: float32([batch, inChannels, size, size], scaled) });
  await session.dispose();
  const side = size * vaeFactor(config);
  const plane = side * side;
  return Array.from({ length: batch }, (_, b) => {
    const data = new Uint8Array(3 * plane);
    for (let c = 0; c < 3; c++) {
      for (let p = 0; p < plane; p++) {
        const value = (image!.data as Float32Array)[(b * 3 + c) * plane + p]! / 2 + 0.5;
        data[3 * p + c] = Math.round(255 * Math.min(1, Math.max(0, value)));
      }
    }
    return { width: side, height: side, data };
  });
}
