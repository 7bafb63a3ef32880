/** One request being denoised: from noise, or from a picture, to latents. */
import type { Checkpoint } from '../models/checkpoint.ts';
import { conditioningFeeds } from '../models/families/conditioning.ts';
import { levelSizes } from '../models/unet/structure.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { COMBINATIONS } from './combine.ts';
import type { CombinedModel } from './combined-model.ts';
import { type DrawnRequest, drawnPlaces } from './drawn-places.ts';
import { GuidedRows, joined } from './guided-rows.ts';
import { type GuidedRun, type Pass, runGuided } from './guided-run.ts';
import { adapterFeeds, LoadedControls } from './guides.ts';
import type { LatentCodec } from './latent-codec.ts';
import { combine } from './linear-combination.ts';
import type { PicturePlaces } from './picture-places.ts';
import type { ResolvedRequest } from './request.ts';
import { beginIndexFor, type DrawNoise, type Sampler } from './samplers/sampler.ts';
import { Turns } from './turns.ts';
import { predictionOf, setupKey, type UnetDenoiser } from './unet-denoiser.ts';

type Feeds = Readonly<Record<string, Tensor>>;

export interface RunContext {
  readonly base: Checkpoint;
  readonly request: ResolvedRequest;
  readonly unet: UnetDenoiser;
  readonly codec: LatentCodec;
  readonly sampler: Sampler;
  /** What is asked at a step, as the request's combination says: one model, or several. */
  readonly models: readonly CombinedModel[];
  /** Pixels per latent cell. */
  readonly factor: number;
  readonly execution: ExecutionContext;
  /** Ends the run between two steps. */
  readonly signal?: AbortSignal;
}

/** What a model is fed with at every step. */
interface LoadedModel {
  readonly texts: Feeds;
  readonly controls: LoadedControls;
}

/** Told of every call: how many are done, of how many, and the first picture's predicted latents, [1, C, h, w]. */
export type OnStep = (step: {
  readonly done: number;
  readonly calls: number;
  readonly predicted: Tensor<Float32Array>;
}) => void | Promise<void>;

export class DenoisingRun {
  readonly #context: RunContext;
  /** Of one picture: [1, C, h, w]. */
  readonly #shape: readonly [1, number, number, number];
  readonly #beginIndex: number;
  readonly #levels: DrawnRequest['levels'];
  #features: Feeds | null = null;
  /** Keys and values of each model's texts, by rows of a pass. */
  readonly #texts = new Map<string, Promise<Feeds>>();
  /** Of what is denoised side by side. */
  readonly #turns = new Turns();

  /** @throws {UsageError} if the denoise strength leaves no step */
  constructor(context: RunContext) {
    const { base, request, sampler, factor } = context;
    const [height, width] = [request.height / factor, request.width / factor];
    this.#context = context;
    this.#shape = [1, base.parts.unet.config.inChannels, height, width];
    this.#levels = levelSizes(base.parts.unet.config, height, width);
    this.#beginIndex =
      request.init === undefined ? 0 : beginIndexFor(sampler, request.steps, request.init.denoise);
  }

  /** Calls of the UNet that a picture takes. */
  get calls(): number {
    return this.#context.sampler.timesteps.length - this.#beginIndex;
  }

  /** Where the request's regions are. */
  drawnPlaces(): PicturePlaces {
    const { request, models } = this.#context;
    const isolatedCalls = Math.round(request.isolate * this.calls);
    return drawnPlaces({ regions: request.regions, isolatedCalls, models, levels: this.#levels });
  }

  /** Pictures that are drawn side by side, each with passes and places of its own: networks are loaded for all of them. */
  sideBySide<T>(pictures: readonly number[], draw: (index: number) => Promise<T>): Promise<T[]> {
    return Promise.all(pictures.map((index) => this.#turns.member(() => draw(index))));
  }

  /**
   * Final latents of each picture, [1, C, h, w].
   * @param pictures their places in the request; they share the passes of the UNet
   * @param places   of context and regions in them
   * @param onStep   learns the first picture's predicted latents
   * @param calls    of the UNet; fewer than all leave the latents on their way. Default: all
   */
  async denoise(
    pictures: readonly number[],
    places: PicturePlaces,
    onStep: OnStep,
    calls = this.calls,
  ): Promise<Tensor<Float32Array>[]> {
    const { request, sampler, execution, signal } = this.#context;
    const n = pictures.length;
    const size = this.#shape[1] * this.#shape[2] * this.#shape[3];
    const { seed, batchNoise } = request;
    const generators =
      batchNoise === 'shared'
        ? [new TorchGenerator(seed + pictures[0]!)]
        : pictures.map((index) => new TorchGenerator(seed + index));
    const drawNoise: DrawNoise = () =>
      joined(generators.map((generator) => generator.randn((n * size) / generators.length)));
    const init = await this.#initial(n, generators);
    const noise =
      request.initialNoise === undefined
        ? drawNoise()
        : joined(pictures.map((index) => request.initialNoise![index]!));
    this.#features ??= await adapterFeeds(request.adapters, execution);
    const rows = new GuidedRows(n, { scale: request.guidanceScale, rescale: request.guidanceRescale });
    const models: LoadedModel[] = [];
    try {
      for (const model of this.#context.models.keys()) models.push(await this.#loadModel(model, rows));
      const timesteps = sampler.timesteps.slice(0, this.#beginIndex + calls);
      const final = await runGuided({
        sampler: { ...sampler, timesteps },
        rows,
        shape: this.#shape.slice(1),
        noise,
        init,
        drawNoise,
        signal,
        predict: (pass) => this.#predict(rows, pass, models, places),
        onStep: ({ index, callCount, original }) =>
          onStep({
            done: index + 1 - this.#beginIndex,
            calls: callCount - this.#beginIndex,
            predicted: float32(this.#shape, original.slice(0, size)),
          }),
      });
      return pictures.map((_, i) => float32(this.#shape, final.slice(i * size, (i + 1) * size)));
    } finally {
      for (const { controls } of models) await controls.dispose();
    }
  }

  async #loadModel(model: number, rows: GuidedRows): Promise<LoadedModel> {
    const { request, unet, execution } = this.#context;
    const { sources, strengths } = this.#context.models[model]!;
    const [negative, positive = negative!] = sources[0]!;
    const conditioning = rows.conditioning(negative!, [positive]);
    const key = `${model} ${rows.count}`;
    const known = this.#texts.get(key) ?? unet.keysValues(sources, rows, strengths);
    this.#texts.set(key, known);
    const texts = {
      ...(await known),
      ...conditioningFeeds(conditioning),
      ...this.#features,
    };
    const [, , latentHeight, latentWidth] = this.#shape;
    const setup = { batch: rows.count, latentHeight, latentWidth, conditioning };
    return { texts, controls: await LoadedControls.load(request.controls, setup, execution) };
  }

  /**
   * What the models of a step predict. Guidance is linear: the guided mean is the mean of what each
   * model predicts with guidance.
   */
  async #predict(
    rows: GuidedRows,
    { feeds, index }: Pass,
    models: readonly LoadedModel[],
    places: PicturePlaces,
  ): Promise<Float32Array> {
    const { request, unet } = this.#context;
    const call = index - this.#beginIndex;
    const { layout, placement, listening, feeds: placed } = places.at(call);
    const setup = {
      rows: rows.count,
      latentHeight: this.#shape[2],
      latentWidth: this.#shape[3],
      layout,
      placement,
      listening,
      adapterFeatures: request.adapters.length > 0,
      controlResiduals: request.controls.length > 0,
    };
    const kind = setupKey(setup);
    const asked = COMBINATIONS[request.combine].models(call, models.length);
    const predictions: [number, Float32Array][] = [];
    for (const model of asked) {
      const { texts, controls } = models[model]!;
      const residuals = await controls.feeds(feeds);
      const outputs = await this.#turns.take(kind, async () => {
        await unet.load(setup);
        return unet.run({ ...texts, ...placed(model, texts), ...residuals, ...feeds });
      });
      places.heard(call, outputs);
      predictions.push([1 / asked.length, predictionOf(outputs)]);
    }
    return predictions.length === 1 ? predictions[0]![1] : combine(...predictions);
  }

  /** Latents of the initial picture, for each of n, and the step to begin at; none without one. */
  async #initial(n: number, generators: readonly TorchGenerator[]): Promise<GuidedRun['init']> {
    const { request, codec } = this.#context;
    if (request.init === undefined) return undefined;
    const encoded: Float32Array[] = [];
    for (let i = 0; i < n; i++) {
      // The autoencoder's own noise comes before the sampler's, from the same generator.
      const generator = generators[i] ?? generators[0]!;
      encoded.push((await codec.encode(request.init.picture, (count) => generator.randn(count))).data);
    }
    return { latents: joined(encoded), beginIndex: this.#beginIndex };
  }
}
