/**
 * Prompt to picture: the denoising loop with its seeds, guidance and regions, and a pipeline that stays loaded over
 * several pictures. Source of the whole: diffusers, pipelines/stable_diffusion/pipeline_stable_diffusion.py.
 */
import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { Conditioning } from '../models/families/conditioning.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { vaeFactor } from '../models/vae/config.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
} from '../runtime/execution-context.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { checkpointSampler } from './checkpoint-schedule.ts';
import { DenoisingRun } from './denoising-run.ts';
import { guidedPair } from './guidance.ts';
import { LatentCodec } from './latent-codec.ts';
import { PromptEncoder } from './prompt-encoder.ts';
import {
  checkRequestMemory,
  maskCount,
  type ResolvedRequest,
  resolveRequest,
  type SampleRequest,
} from './request.ts';
import { createSampler } from './samplers/create.ts';
import { UnetDenoiser } from './unet-denoiser.ts';

export interface PipelineParts extends ExecutionRequest {
  /** Words of concepts with their embeddings. Default: the base's own words alone. */
  readonly vocabulary?: BoundVocabulary;
  /** Changes of the base by layer id, strengths inside. Default none. */
  readonly deltas?: ModelDeltas;
  /** Layers of the text encoder to leave out at the end, as diffusers counts: 0 is all. Default 0. */
  readonly clipSkip?: number;
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
  /** Whether `sample` returns the pictures; without, a long run holds no more than one. Default true. */
  readonly keep?: boolean;
  /** Stops between two steps by throwing its reason; default: the pipeline's, which waits for no step. Pictures already handed to `onPicture` are finished. */
  readonly signal?: AbortSignal;
}

/** A base with its changes, loaded once for any number of pictures. Dispose it when done. */
export class Pipeline {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  /** Pixels per latent cell. */
  readonly factor: number;
  readonly #prompts: PromptEncoder;
  readonly #unet: UnetDenoiser;
  readonly #codec: LatentCodec;
  readonly #execution: ExecutionContext;

  private constructor(
    base: Checkpoint,
    parts: PipelineParts,
    execution: ExecutionContext,
    codec: LatentCodec,
    factor: number,
  ) {
    const { deltas = new Map(), clipSkip = 0 } = parts;
    const layerCount = base.parts.layers.contextCount;
    this.base = base;
    this.factor = factor;
    this.vocabulary = parts.vocabulary ?? bindConcepts(base.tokenizer, [], layerCount);
    this.#prompts = new PromptEncoder(base, this.vocabulary, deltas, clipSkip, execution);
    this.#unet = new UnetDenoiser(base, deltas, execution);
    this.#codec = codec;
    this.#execution = execution;
  }

  /** @throws {FormatError} if the base has no autoencoder */
  static async create(base: Checkpoint, parts: PipelineParts = {}): Promise<Pipeline> {
    const vae = await base.parts.vae();
    const execution = executionContext(parts);
    return new Pipeline(base, parts, execution, new LatentCodec(vae, execution), vaeFactor(vae.config));
  }

  /** Defaults in place, everything checked that needs no network. @throws {UsageError} as `resolveRequest` */
  resolve(request: SampleRequest): ResolvedRequest {
    return resolveRequest(request, this.base, this.factor, this.vocabulary.layerCount);
  }

  /**
   * Draw pictures.
   * @returns all of them, in order; none with `keep: false`
   * @throws {UsageError} for an impossible request, before anything is loaded
   * @throws {NumericalError} if latents stop being finite
   */
  async sample(request: SampleRequest, hooks: SampleHooks = {}): Promise<SampledPicture[]> {
    const { signal = this.#execution.signal } = hooks;
    const resolved = this.resolve(request);
    await checkRequestMemory(resolved, maskCount(resolved), this.base, this.factor);
    const { sampler: name, schedule, steps, eta, count, batchSize, seed } = resolved;
    const config = checkpointSampler(this.base, name, schedule);
    const run = new DenoisingRun({
      base: this.base,
      request: resolved,
      unet: this.#unet,
      codec: this.#codec,
      sampler: createSampler(config, steps, { eta }),
      sources: await this.#encode(resolved),
      factor: this.factor,
      execution: this.#execution,
      signal,
    });
    const { keep = true } = hooks;
    const done: SampledPicture[] = [];
    let index = 0;
    for (let first = 0; first < count; first += batchSize) {
      const pictures = Array.from({ length: Math.min(batchSize, count - first) }, (_, i) => first + i);
      const batch = await run.denoise(pictures, ({ done: step, calls: steps, predicted }) =>
        hooks.onStep?.({ pictures, step, steps, preview: () => this.#codec.decode(predicted) }),
      );
      for (const latents of batch) {
        signal?.throwIfAborted();
        const decoded = await this.#codec.decode(latents);
        const picture = { ...decoded, index, seed: seed + index, latents };
        if (keep) done.push(picture);
        await hooks.onPicture?.(picture);
        index++;
      }
    }
    return done;
  }

  /** Text features of context and regions. */
  #encode(request: ResolvedRequest): Promise<Conditioning[][]> {
    const { layerCount } = this.vocabulary;
    const everywhere = (text: string): string[] => Array<string>(layerCount).fill(text);
    const group = (positive: string[], negative: string): string[][] =>
      guidedPair(request.guidanceScale, everywhere(negative), positive);
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
