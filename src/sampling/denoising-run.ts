/** One request being denoised: from noise, or from a picture, to latents. */
import type { Checkpoint } from '../models/checkpoint.ts';
import { levelSizes } from '../models/unet/structure.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { guide } from './guidance.ts';
import { adapterFeeds, LoadedControls } from './guides.ts';
import type { LatentCodec } from './latent-codec.ts';
import { type SharedPicture, sharePicture } from './region-shares.ts';
import type { ResolvedRequest } from './request.ts';
import type { DrawNoise, Sampler, SamplerProgress } from './samplers/sampler.ts';
import { beginIndexFor, runSampler } from './samplers/sampler.ts';
import type { SourceContexts, UnetDenoiser } from './unet-denoiser.ts';

type Feeds = Readonly<Record<string, Tensor>>;

export interface RunContext {
  readonly base: Checkpoint;
  readonly request: ResolvedRequest;
  readonly unet: UnetDenoiser;
  readonly codec: LatentCodec;
  readonly sampler: Sampler;
  /** Text features of context and regions. */
  readonly sources: readonly SourceContexts[];
  /** Pixels per latent cell. */
  readonly factor: number;
  readonly signal?: AbortSignal;
}

/** Whether every picture is predicted twice, with and without its prompt. */
export function isGuided({ guidanceScale }: ResolvedRequest): boolean {
  return guidanceScale > 1;
}

export class DenoisingRun {
  readonly #context: RunContext;
  readonly #guided: boolean;
  /** Of one picture: [1, C, h, w]. */
  readonly #shape: readonly [1, number, number, number];
  /** Calls of the UNet from the first on in which regions keep to themselves. */
  readonly #isolatedCalls: number;
  readonly #beginIndex: number;
  readonly #apart: SharedPicture | null;
  readonly #together: SharedPicture;
  #features: Feeds | null = null;

  /** @throws {UsageError} if the denoise strength leaves no step */
  constructor(context: RunContext) {
    const { base, request, sampler, sources, factor } = context;
    const [height, width] = [request.height / factor, request.width / factor];
    this.#context = context;
    this.#guided = isGuided(request);
    this.#shape = [1, base.unet.config.inChannels, height, width];
    this.#beginIndex =
      request.init === undefined ? 0 : beginIndexFor(sampler, request.steps, request.init.denoise);
    const calls = sampler.timesteps.length - this.#beginIndex;
    this.#isolatedCalls = Math.round(request.isolate * calls);
    const tokens = sources.map((contexts) => contexts[0]!.shape[1]!);
    const levels = levelSizes(base.unet.config, height, width);
    const share = (isolated: boolean) => sharePicture(request.regions, tokens, levels, isolated);
    this.#apart = this.#isolatedCalls > 0 ? share(true) : null;
    this.#together = share(false);
  }

  /**
   * Final latents of each picture, [1, C, h, w].
   * @param pictures their places in the request; they share the passes of the UNet
   * @param onStep   learns the first picture's predicted latents
   */
  async denoise(
    pictures: readonly number[],
    onStep: (step: { done: number; calls: number; predicted: Tensor<Float32Array> }) => void | Promise<void>,
  ): Promise<Tensor<Float32Array>[]> {
    const { request, unet, sampler, sources, signal } = this.#context;
    const n = pictures.length;
    const size = this.#shape[1] * this.#shape[2] * this.#shape[3];
    const { seed, batchNoise } = request;
    const generators =
      batchNoise === 'shared'
        ? [new TorchGenerator(seed + pictures[0]!)]
        : pictures.map((index) => new TorchGenerator(seed + index));
    const drawNoise = (): Float32Array =>
      concatenated(generators.map((generator) => generator.randn((n * size) / generators.length)));
    const latents = await this.#start(pictures, drawNoise, generators);
    this.#features ??= await adapterFeeds(request.adapters);
    const texts = { ...(await unet.keysValues(sources, n)), ...this.#features };
    const controls = await LoadedControls.load(request.controls, {
      batch: n * (this.#guided ? 2 : 1),
      latentHeight: this.#shape[2],
      latentWidth: this.#shape[3],
      context: repeatedContext(sources[0]!, n),
    });
    try {
      const final = await runSampler(sampler, latents, {
        beginIndex: this.#beginIndex,
        drawNoise,
        signal,
        denoise: (scaled, timestep, index) => this.#predict(n, scaled, timestep, index, texts, controls),
        onStep: ({ index, callCount, original }: SamplerProgress) =>
          onStep({
            done: index + 1 - this.#beginIndex,
            calls: callCount - this.#beginIndex,
            predicted: float32(this.#shape, original.slice(0, size)),
          }),
      });
      return pictures.map((_, i) => float32(this.#shape, final.slice(i * size, (i + 1) * size)));
    } finally {
      await controls.dispose();
    }
  }

  /** One guided prediction for n pictures. */
  async #predict(
    n: number,
    latents: Float32Array,
    timestep: number,
    index: number,
    texts: Feeds,
    controls: LoadedControls,
  ): Promise<Float32Array> {
    const { request, unet } = this.#context;
    const isolated = index - this.#beginIndex < this.#isolatedCalls;
    const { layout, feeds: places } = isolated ? this.#apart! : this.#together;
    await unet.load({
      pictures: n,
      latentHeight: this.#shape[2],
      latentWidth: this.#shape[3],
      layout,
      guided: this.#guided,
      adapterFeatures: request.adapters.length > 0,
      controlResiduals: request.controls.length > 0,
    });
    const rows = this.#guided ? concatenated([latents, latents]) : latents;
    const sample = float32([n * (this.#guided ? 2 : 1), ...this.#shape.slice(1)], rows);
    const residuals = await controls.feeds(sample, timestep);
    const output = await unet.predict(sample, timestep, { ...texts, ...places, ...residuals });
    if (!this.#guided) return output;
    return guide(output, n, request.guidanceScale, request.guidanceRescale);
  }

  /** Pure noise, or the initial picture with the noise of the step to begin at. */
  async #start(
    pictures: readonly number[],
    drawNoise: DrawNoise,
    generators: readonly TorchGenerator[],
  ): Promise<Float32Array> {
    const { request, sampler, codec } = this.#context;
    const { init, initialNoise } = request;
    const firstNoise = (): Float32Array =>
      initialNoise === undefined ? drawNoise() : concatenated(pictures.map((index) => initialNoise[index]!));
    if (init === undefined) return firstNoise().map((value) => value * sampler.initNoiseSigma);
    const encoded: Float32Array[] = [];
    for (let i = 0; i < pictures.length; i++) {
      // The autoencoder's own noise comes before the sampler's, from the same generator.
      const generator = generators[i] ?? generators[0]!;
      encoded.push((await codec.encode(init.picture, (count) => generator.randn(count))).data);
    }
    return sampler.addNoise(concatenated(encoded), firstNoise(), this.#beginIndex);
  }
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Features [B, L, T, D] for n pictures: the negative n times, then the positive. */
function repeatedContext(contexts: SourceContexts, n: number): Tensor<Float32Array> {
  const rows = contexts.flatMap(({ data }) => Array<Float32Array>(n).fill(data));
  return float32([rows.length, ...contexts[0]!.shape], concatenated(rows));
}
