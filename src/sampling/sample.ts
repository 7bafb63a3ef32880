/**
 * Prompt to picture: the denoising loop with its seeds, guidance and regions, and a pipeline that stays loaded over
 * several pictures. Source of the whole: diffusers, pipelines/stable_diffusion/pipeline_stable_diffusion.py.
 */
import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { LayerDeltas } from '../models/lora.ts';
import { crossAttentionNames, levelSizes } from '../models/unet/structure.ts';
import { vaeFactor } from '../models/vae/config.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { checkpointSampler } from './checkpoint-schedule.ts';
import { guide } from './guidance.ts';
import { LatentCodec } from './latent-codec.ts';
import { PromptEncoder } from './prompt-encoder.ts';
import { sharePicture } from './region-shares.ts';
import { type ResolvedRequest, resolveRequest, type SampleRequest } from './request.ts';
import { createSampler } from './samplers/create.ts';
import { beginIndexFor, runSampler, type Sampler } from './samplers/sampler.ts';
import { UnetDenoiser } from './unet-denoiser.ts';

export interface PipelineParts {
  /** Words of concepts with their embeddings. Default: the base's own words alone. */
  readonly vocabulary?: BoundVocabulary;
  /** Changes of the UNet's linear layers, strengths inside. Default none. */
  readonly unetDeltas?: LayerDeltas;
  /** Changes of the text encoder's linear layers. Default none. */
  readonly textDeltas?: LayerDeltas;
  /** Layers of the text encoder to leave out at the end, as diffusers counts: 0 is all. Default 0. */
  readonly clipSkip?: number;
  /** CPU threads of one operator. Default: the runtime's choice. */
  readonly threads?: number;
}

/** A finished picture. */
export interface SampledPicture extends Picture {
  /** Place in the request, from 0. */
  readonly index: number;
  readonly seed: number;
  /** What the autoencoder decoded, [1, C, h, w], scaled. */
  readonly latents: Tensor<Float32Array>;
}

export interface StepProgress {
  /** Pictures of this pass, by index. */
  readonly pictures: readonly number[];
  /** Calls of the UNet done for them, and to do in all. */
  readonly step: number;
  readonly steps: number;
  /** Decode the picture that this step predicts, of the first of the pictures. */
  readonly preview: () => Promise<Picture>;
}

export interface SampleHooks {
  readonly onStep?: (progress: StepProgress) => void | Promise<void>;
  /** Called with each picture as soon as it is decoded. */
  readonly onPicture?: (picture: SampledPicture) => void | Promise<void>;
  /** Stops between two steps by throwing its reason. Pictures already handed to `onPicture` are finished. */
  readonly signal?: AbortSignal;
}

type Feeds = Readonly<Record<string, Tensor>>;

/** A base with its changes, loaded once for any number of pictures. Dispose it when done. */
export class Pipeline {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  /** Pixels per latent cell. */
  readonly factor: number;
  readonly #prompts: PromptEncoder;
  readonly #unet: UnetDenoiser;
  readonly #codec: LatentCodec;

  private constructor(base: Checkpoint, parts: PipelineParts, codec: LatentCodec, factor: number) {
    const { unetDeltas = new Map(), textDeltas = new Map(), clipSkip = 0, threads } = parts;
    const layerCount = crossAttentionNames(base.unet.config).length;
    this.base = base;
    this.factor = factor;
    this.vocabulary = parts.vocabulary ?? bindConcepts(base.tokenizer, [], layerCount);
    this.#prompts = new PromptEncoder(base, this.vocabulary, textDeltas, clipSkip);
    this.#unet = new UnetDenoiser(base, unetDeltas, threads);
    this.#codec = codec;
  }

  /** @throws {FormatError} if the base has no autoencoder */
  static async create(base: Checkpoint, parts: PipelineParts = {}): Promise<Pipeline> {
    const vae = await base.vae();
    return new Pipeline(base, parts, new LatentCodec(vae), vaeFactor(vae.config));
  }

  /** Defaults in place, everything checked that needs no network. @throws {UsageError} as `resolveRequest` */
  resolve(request: SampleRequest): ResolvedRequest {
    return resolveRequest(request, this.base, this.factor, this.vocabulary.layerCount);
  }

  /**
   * Draw pictures.
   * @returns all of them, in order
   * @throws {UsageError} for an impossible request, before anything is loaded
   * @throws {NumericalError} if latents stop being finite
   */
  async sample(request: SampleRequest, hooks: SampleHooks = {}): Promise<SampledPicture[]> {
    const resolved = this.resolve(request);
    const { sampler: name, schedule, steps, eta, count, batchSize } = resolved;
    const config = await checkpointSampler(this.base, name, schedule);
    const sampler = createSampler(config, steps, { eta });
    const run = new Run(this.base, resolved, this.#unet, this.#codec, this.factor, sampler);
    const sources = await this.#encode(resolved, run.guided);
    const done: SampledPicture[] = [];
    for (let first = 0; first < count; first += batchSize) {
      const pictures = Array.from({ length: Math.min(batchSize, count - first) }, (_, i) => first + i);
      for (const latents of await run.denoise(pictures, sources, hooks)) {
        hooks.signal?.throwIfAborted();
        const index = done.length;
        const picture = await this.#codec.decode(latents);
        done.push({ ...picture, index, seed: resolved.seed + index, latents });
        await hooks.onPicture?.(done[index]!);
      }
    }
    return done;
  }

  /** Text features of context and regions. */
  #encode(request: ResolvedRequest, guided: boolean): Promise<Tensor<Float32Array>[][]> {
    const { layerCount } = this.vocabulary;
    const everywhere = (text: string): string[] => Array<string>(layerCount).fill(text);
    const group = (positive: string[], negative: string): string[][] =>
      guided ? [everywhere(negative), positive] : [positive];
    const context = everywhere(request.prompt).map((text, layer) => request.layerPrompts.get(layer) ?? text);
    return this.#prompts.encode([
      group(context, request.negativePrompt),
      ...request.regions.map(({ prompt, negativePrompt = '' }) => group(everywhere(prompt), negativePrompt)),
    ]);
  }

  async dispose(): Promise<void> {
    await this.#unet.dispose();
    await this.#codec.dispose();
  }
}

/** One request being drawn. */
class Run {
  readonly guided: boolean;
  readonly #base: Checkpoint;
  readonly #request: ResolvedRequest;
  readonly #unet: UnetDenoiser;
  readonly #codec: LatentCodec;
  readonly #sampler: Sampler;
  readonly #latentHeight: number;
  readonly #latentWidth: number;

  constructor(
    base: Checkpoint,
    request: ResolvedRequest,
    unet: UnetDenoiser,
    codec: LatentCodec,
    factor: number,
    sampler: Sampler,
  ) {
    this.#base = base;
    this.#request = request;
    this.#unet = unet;
    this.#codec = codec;
    this.#sampler = sampler;
    this.#latentHeight = request.height / factor;
    this.#latentWidth = request.width / factor;
    this.guided = request.guidanceScale > 1;
  }

  get #shape(): [number, number, number, number] {
    return [1, this.#base.unet.config.inChannels, this.#latentHeight, this.#latentWidth];
  }

  /** Final latents of each picture, [1, C, h, w]. */
  async denoise(
    pictures: readonly number[],
    sources: readonly (readonly Tensor<Float32Array>[])[],
    hooks: SampleHooks,
  ): Promise<Tensor<Float32Array>[]> {
    const { guidanceScale, guidanceRescale, seed, batchNoise } = this.#request;
    const n = pictures.length;
    const shape = this.#shape;
    const size = shape.reduce((a, b) => a * b, 1);
    const generators =
      batchNoise === 'shared'
        ? [new TorchGenerator(seed + pictures[0]!)]
        : pictures.map((index) => new TorchGenerator(seed + index));
    const drawNoise = (): Float32Array => {
      const parts = generators.map((generator) => generator.randn((n * size) / generators.length));
      return parts.length === 1 ? parts[0]! : concatenated(parts);
    };
    const { latents, beginIndex } = await this.#start(n, drawNoise, generators);
    const feeds = await this.#unet.keysValues(sources, n);
    const isolatedCalls = Math.round(this.#request.isolate * this.#sampler.timesteps.length);
    const share = (isolated: boolean) => {
      const tokens = sources.map((contexts) => contexts[0]!.shape[1]!);
      const levels = levelSizes(this.#base.unet.config, this.#latentHeight, this.#latentWidth);
      return sharePicture(this.#request.regions, tokens, levels, isolated);
    };
    const shared = { apart: isolatedCalls > 0 ? share(true) : null, together: share(false) };
    const repeats = this.guided ? 2 : 1;
    const final = await runSampler(this.#sampler, latents, {
      beginIndex,
      drawNoise,
      ...(hooks.signal === undefined ? {} : { signal: hooks.signal }),
      denoise: async (scaled, timestep, index) => {
        const { layout, feeds: places } = index < isolatedCalls ? shared.apart! : shared.together;
        await this.#unet.load({
          pictures: n,
          latentHeight: this.#latentHeight,
          latentWidth: this.#latentWidth,
          layout,
          guided: this.guided,
          adapterFeatures: false,
          controlResiduals: false,
        });
        const all: Feeds = { ...feeds, ...places };
        const doubled = this.guided ? concatenated([scaled, scaled]) : scaled;
        const sample = float32([repeats * n, ...shape.slice(1)], doubled);
        const output = await this.#unet.predict(sample, timestep, all);
        return this.guided ? guide(output, n, guidanceScale, guidanceRescale) : output;
      },
      onStep: async ({ index, callCount, original }) => {
        await hooks.onStep?.({
          pictures,
          step: index + 1 - beginIndex,
          steps: callCount - beginIndex,
          preview: () => this.#codec.decode(float32(shape, original.slice(0, size))),
        });
      },
    });
    return pictures.map((_, i) => float32(shape, final.slice(i * size, (i + 1) * size)));
  }

  /** Pure noise, or the initial picture with the noise of the step to begin at. */
  async #start(
    n: number,
    drawNoise: () => Float32Array,
    generators: readonly TorchGenerator[],
  ): Promise<{ latents: Float32Array; beginIndex: number }> {
    const { init, steps } = this.#request;
    const sampler = this.#sampler;
    if (init === undefined) {
      return { latents: drawNoise().map((value) => value * sampler.initNoiseSigma), beginIndex: 0 };
    }
    const beginIndex = beginIndexFor(sampler, steps, init.denoise);
    const encoded: Float32Array[] = [];
    for (let i = 0; i < n; i++) {
      // The autoencoder's own noise comes before the sampler's, from the same generator.
      const generator = generators[i] ?? generators[0]!;
      encoded.push((await this.#codec.encode(init.picture, (count) => generator.randn(count))).data);
    }
    return { latents: sampler.addNoise(concatenated(encoded), drawNoise(), beginIndex), beginIndex };
  }
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
