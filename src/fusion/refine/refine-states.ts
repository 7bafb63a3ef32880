/** Latents that denoising visits, each with the guided prediction that a model should make there. */

import type { ModelPart } from '../../models/checkpoint.ts';
import { deltaFeeds, type LayerDeltas } from '../../models/lora.ts';
import type { UnetConfig } from '../../models/unet/config.ts';
import { buildUnet, type UnetSize } from '../../models/unet/unet.ts';
import { GraphSession, type SessionOptions } from '../../runtime/onnxruntime/session.ts';
import { runSampler, type Sampler } from '../../sampling/samplers/sampler.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';

/** A prompt as two models read it: text features [1, L, T, D] of the concept's own text encoder and of the fused one. */
export interface RefinePrompt {
  readonly own: Tensor<Float32Array>;
  readonly fused: Tensor<Float32Array>;
}

/** One place where the fused model's guided prediction z is compared. */
export interface RefineState {
  /** [C · h · w], as the network sees them. */
  readonly latents: Float32Array;
  readonly timestep: number;
  readonly prompt: RefinePrompt;
  /** z of the teacher at these latents, [C · h · w]. */
  readonly target: Float32Array;
}

/** A UNet with deltas, and what it reads for the empty prompt, [1, L, T, D]. */
export interface GuidedModel {
  readonly unetDeltas: LayerDeltas;
  readonly emptyContext: Tensor<Float32Array>;
}

export interface RolloutOptions {
  readonly sampler: Sampler;
  readonly guidanceScale: number;
  readonly session: SessionOptions;
  readonly signal?: AbortSignal;
}

/** One loaded UNet that stands for every model in turn, B pictures at a time. */
export class Rollouts {
  readonly #session: GraphSession;
  readonly #config: UnetConfig;
  readonly #layers: ModelPart<UnetConfig>['layers'];
  readonly #size: UnetSize;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #options: RolloutOptions;

  private constructor(
    session: GraphSession,
    { config, layers }: ModelPart<UnetConfig>,
    size: UnetSize,
    ranks: ReadonlyMap<string, number>,
    options: RolloutOptions,
  ) {
    this.#session = session;
    this.#config = config;
    this.#layers = layers;
    this.#size = size;
    this.#ranks = ranks;
    this.#options = options;
  }

  /**
   * @param size  `batch` is B, pictures drawn together
   * @param ranks of every layer that any of the models changes, the largest of each
   */
  static async create(
    unet: ModelPart<UnetConfig>,
    size: UnetSize,
    ranks: ReadonlyMap<string, number>,
    options: RolloutOptions,
  ): Promise<Rollouts> {
    const doubled = { ...size, batch: 2 * size.batch };
    const { graph } = buildUnet(unet.weights, unet.config, doubled, { loraRanks: ranks });
    const session = await GraphSession.create(graph, options.session);
    return new Rollouts(session, unet, size, ranks, options);
  }

  /**
   * Draw B pictures with guidance and note the teacher's prediction at every step.
   * @param prompts  B prompts
   * @param noise    standard normal, [B · C · h · w]
   * @param teacher  reads `own` of each prompt
   * @param driver   whose predictions the latents follow, reading `fused`; null: the teacher's own
   * @param onStep   called after each step
   * @returns B states per step
   * @throws {ShapeError} when deltas or text features do not fit
   * @throws {NumericalError} when latents stop being finite
   */
  async draw(
    prompts: readonly RefinePrompt[],
    noise: Float32Array,
    teacher: GuidedModel,
    driver: GuidedModel | null,
    onStep: () => void,
  ): Promise<RefineState[]> {
    const { sampler, signal } = this.#options;
    const predictTarget = this.#predictor(
      teacher,
      prompts.map(({ own }) => own),
    );
    const predict =
      driver === null
        ? null
        : this.#predictor(
            driver,
            prompts.map(({ fused }) => fused),
          );
    const states: RefineState[] = [];
    const start = noise.map((value) => value * sampler.initNoiseSigma);
    await runSampler(sampler, start, {
      signal,
      onStep,
      denoise: async (latents, timestep) => {
        const targets = await predictTarget(latents, timestep);
        const pixels = latents.length / prompts.length;
        prompts.forEach((prompt, i) => {
          const of = (values: Float32Array): Float32Array => values.slice(i * pixels, (i + 1) * pixels);
          states.push({ latents: of(latents), timestep, prompt, target: of(targets) });
        });
        return predict === null ? targets : predict(latents, timestep);
      },
    });
    return states;
  }

  /** Free the session's memory. */
  dispose(): Promise<void> {
    return this.#session.dispose();
  }

  /** z = e_u + g (e_c − e_u) [B · C · h · w] of a model at given latents. */
  #predictor(
    { unetDeltas, emptyContext }: GuidedModel,
    contexts: readonly Tensor<Float32Array>[],
  ): (latents: Float32Array, timestep: number) => Promise<Float32Array> {
    const { batch, latentHeight, latentWidth } = this.#size;
    const fixed = {
      ...deltaFeeds(unetDeltas, this.#ranks, this.#layers),
      encoder_hidden_states: stacked([...contexts.map(() => emptyContext), ...contexts]),
    };
    const { guidanceScale } = this.#options;
    return async (latents, timestep) => {
      const sample = float32([2 * batch, this.#config.inChannels, latentHeight, latentWidth]);
      sample.data.set(latents);
      sample.data.set(latents, latents.length);
      const times = float32([2 * batch], Array(2 * batch).fill(timestep));
      const out = await this.#session.run({ sample, timestep: times, ...fixed });
      const predicted = out.noise_pred!.data as Float32Array;
      return latents.map(
        (_, i) => predicted[i]! + guidanceScale * (predicted[latents.length + i]! - predicted[i]!),
      );
    };
  }
}

/** Text features [1, L, T, D] as one batch [N, L, T, D]. */
export function stacked(contexts: readonly Tensor<Float32Array>[]): Tensor<Float32Array> {
  const [first] = contexts;
  const batch = float32([contexts.length, ...first!.shape.slice(1)]);
  contexts.forEach(({ data }, i) => {
    batch.data.set(data, i * first!.data.length);
  });
  return batch;
}
