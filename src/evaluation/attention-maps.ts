/**
 * Where does a word act? Cross-attention probabilities of a word's tokens, averaged over steps, heads and the layers
 * of one resolution, while a picture is drawn.
 */

import { bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { conditioningFeeds, timeIdsOf } from '../models/families/conditioning.ts';
import { plainLayout } from '../models/unet/region-attention.ts';
import { attentionPlaces, levelSizes } from '../models/unet/structure.ts';
import { vaeFactor } from '../models/vae/config.ts';
import type { Progress } from '../progress.ts';
import { type ExecutionRequest, executionContext } from '../runtime/execution-context.ts';
import { checkpointSampler } from '../sampling/checkpoint-schedule.ts';
import { guidedPair } from '../sampling/guidance.ts';
import { GuidedRows } from '../sampling/guided-rows.ts';
import { runGuided } from '../sampling/guided-run.ts';
import { LatentCodec } from '../sampling/latent-codec.ts';
import { PromptEncoder } from '../sampling/prompt-encoder.ts';
import { resolveRequest } from '../sampling/request.ts';
import type { PipelineParts } from '../sampling/sample.ts';
import { createSampler } from '../sampling/samplers/create.ts';
import { predictionOf, UnetDenoiser } from '../sampling/unet-denoiser.ts';
import { WordListener } from '../sampling/word-listening.ts';
import { withDefaults } from '../settings.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { float32 } from '../tensor/tensor.ts';
import { conceptWords } from './concept-words.ts';
import type { EvaluationSampling } from './evaluate.ts';

export interface AttentionMapsRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  readonly parts?: PipelineParts;
  /** Plain text: weights `(word:1.2)` are not read here. */
  readonly prompt: string;
  /** Words of the prompt to look at. Default: the concept words in it. */
  readonly words?: readonly string[];
  /** Default 0. */
  readonly seed?: number;
  readonly sampling?: EvaluationSampling;
  /** Told of denoising steps. */
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** Attention of one resolution. */
export interface AttentionMap {
  readonly word: string;
  readonly height: number;
  readonly width: number;
  /** How many layers were averaged. */
  readonly layers: number;
  /** Share of attention on the word's tokens, [height, width], 0 … 1. */
  readonly values: Float32Array;
}

export interface AttentionMaps {
  readonly picture: Picture;
  /** Word by word, the finest resolution first. */
  readonly maps: readonly AttentionMap[];
}

/**
 * Draw one picture (the same as the sampler draws) and average the attention of words in it.
 * @throws {UsageError} if a word is not in the prompt, there is none to look at, or the request is impossible
 */
export async function attentionMaps(request: AttentionMapsRequest): Promise<AttentionMaps> {
  const { base, parts = {}, prompt, sampling = {}, seed = 0 } = request;
  const execution = executionContext(withDefaults<ExecutionRequest>(parts, request));
  const { config } = base.parts.unet;
  const places = attentionPlaces(config);
  const { deltas = new Map(), clipSkip = 0 } = parts;
  const vocabulary = parts.vocabulary ?? bindConcepts(base.parts.tokenizers, [], places.length);
  const vae = await base.parts.vae();
  const factor = vaeFactor(vae.config);
  const resolved = resolveRequest({ ...sampling, prompt, seed }, base, factor, places.length);
  const words = request.words ?? conceptWords(prompt, vocabulary);
  const { guidanceScale: scale, guidanceRescale: rescale, negativePrompt } = resolved;
  const rows = new GuidedRows(1, { scale, rescale });
  const everywhere = (text: string): string[] => Array<string>(places.length).fill(text);
  const encoder = new PromptEncoder(base, vocabulary, deltas, clipSkip, execution);
  const plain = prompt.replace(/[()]/g, (mark) => `\\${mark}`);
  const positions = encoder.wordPositions(plain, words);
  const absent = positions.findIndex((layers) => layers.some((own) => own.length === 0));
  if (absent >= 0) throw new UsageError(`attention maps: "${words[absent]}" is no word of "${prompt}"`);
  const [contexts] = await encoder.encode([
    guidedPair(scale, negativePrompt === undefined ? null : everywhere(negativePrompt), everywhere(plain)),
  ]);
  const [latentHeight, latentWidth] = [resolved.height / factor, resolved.width / factor];
  const timeIds = timeIdsOf(config, resolved);
  const pair = contexts!.map((own) => ({ ...own, timeIds }));
  const tokens = pair[0]!.context.shape[2]!;
  const levels = levelSizes(config, latentHeight, latentWidth);
  const listener = new WordListener(config, [...levels.keys()], positions, tokens, rows);
  const counts = levels.map(({ height, width }) => height * width);
  const sampler = createSampler(
    await checkpointSampler(base, resolved.sampler, resolved.schedule),
    resolved.steps,
    { eta: resolved.eta },
  );
  const sums = words.map(() => counts.map((count) => new Float64Array(count)));
  const shape = [config.inChannels, latentHeight, latentWidth];
  const size = config.inChannels * latentHeight * latentWidth;
  const generator = new TorchGenerator(resolved.seed);
  const unet = new UnetDenoiser(base, deltas, execution);
  let latents: Float32Array;
  try {
    const keysValues = await unet.keysValues([pair], rows);
    const texts = {
      ...keysValues,
      ...listener.feeds(keysValues, 0),
      ...conditioningFeeds(rows.conditioning(pair[0]!, [pair.at(-1)!])),
    };
    await unet.load({
      rows: rows.count,
      latentHeight,
      latentWidth,
      layout: plainLayout(tokens, counts),
      listening: listener.setup,
      adapterFeatures: false,
      controlResiduals: false,
    });
    latents = await runGuided({
      sampler,
      rows,
      shape,
      noise: generator.randn(size),
      drawNoise: () => generator.randn(size),
      signal: request.signal,
      predict: async ({ feeds }) => {
        const outputs = await unet.run({ ...texts, ...feeds });
        for (const { place, shares } of listener.heard(outputs)) {
          shares.forEach((share, i) => {
            sums[i % words.length]![place.level]![Math.floor(i / words.length)]! += share;
          });
        }
        return predictionOf(outputs);
      },
      onStep: ({ index, callCount }) => request.onProgress?.({ done: index + 1, total: callCount }),
    });
  } finally {
    await unet.dispose();
  }
  const codec = new LatentCodec(vae, execution);
  try {
    const picture = await codec.decode(float32([1, ...shape], latents));
    const calls = sampler.timesteps.length;
    const maps = words.flatMap((word, w) =>
      levels.flatMap(({ height, width }, level) => {
        const averaged = places.filter((place) => place.level === level).length;
        if (averaged === 0) return [];
        const values = Float32Array.from(sums[w]![level]!, (sum) => sum / (averaged * calls));
        return [{ word, height, width, layers: averaged, values }];
      }),
    );
    return { picture, maps };
  } finally {
    await codec.dispose();
  }
}
