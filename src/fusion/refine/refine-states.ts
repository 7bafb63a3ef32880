/** Latents that denoising visits, each with what is compared there as a model should predict it under its prompt. */

import type { ModelPart } from '../../models/checkpoint.ts';
import { conditioningFeeds, stackedConditioning } from '../../models/families/conditioning.ts';
import { deltaFeeds, type LayerDeltas } from '../../models/lora.ts';
import type { UnetConfig } from '../../models/unet/config.ts';
import { buildUnet, type UnetSize } from '../../models/unet/unet.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import type { LoadedGraph } from '../../runtime/runtime.ts';
import { UNGUIDED } from '../../sampling/guidance.ts';
import { GuidedRows } from '../../sampling/guided-rows.ts';
import { type Pass, runGuided } from '../../sampling/guided-run.ts';
import type { Sampler } from '../../sampling/samplers/sampler.ts';
import { float32 } from '../../tensor/tensor.ts';
import type { PromptReading } from './prompt-reading.ts';

/** A prompt as two models read it, the concept's own and the fused one; of one row. */
export interface RefinePrompt {
  readonly own: PromptReading;
  readonly fused: PromptReading;
}

/** One place where the fused model's prediction is compared. */
export interface RefineState {
  /** [C · h · w], as the network sees them. */
  readonly latents: Float32Array;
  readonly timestep: number;
  readonly prompt: RefinePrompt;
  /** e_c − w e_∅ there, [C · h · w]: with its prompt by the teacher, without one by the base. */
  readonly target: Float32Array;
}

export interface RolloutOptions {
  readonly sampler: Sampler;
  /** As in a `RefineRequest`. */
  readonly noPrompt: RefinePrompt;
  /** w of what is compared. */
  readonly unprompted: number;
  readonly execution: ExecutionContext;
}

/** One loaded UNet that stands for every model in turn, some pictures at a time. */
export class Rollouts {
  readonly #session: LoadedGraph;
  readonly #config: UnetConfig;
  readonly #layers: ModelPart<UnetConfig>['layers'];
  readonly #rows: GuidedRows;
  readonly #size: Omit<UnetSize, 'batch'>;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #options: RolloutOptions;

  private constructor(
    session: LoadedGraph,
    { config, layers }: ModelPart<UnetConfig>,
    rows: GuidedRows,
    size: Omit<UnetSize, 'batch'>,
    ranks: ReadonlyMap<string, number>,
    options: RolloutOptions,
  ) {
    this.#session = session;
    this.#config = config;
    this.#layers = layers;
    this.#rows = rows;
    this.#size = size;
    this.#ranks = ranks;
    this.#options = options;
  }

  /**
   * @param pictures of one pass
   * @param ranks of every layer that any of the models changes, the largest of each
   */
  static async create(
    unet: ModelPart<UnetConfig>,
    pictures: number,
    size: Omit<UnetSize, 'batch'>,
    ranks: ReadonlyMap<string, number>,
    options: RolloutOptions,
  ): Promise<Rollouts> {
    const batch = { ...size, batch: pictures };
    const { graph } = buildUnet(unet.weights, unet.config, batch, { loraRanks: ranks });
    const rows = new GuidedRows(pictures, UNGUIDED);
    const session = await options.execution.runtime.load(graph, 'training', options.execution);
    return new Rollouts(session, unet, rows, size, ranks, options);
  }

  /**
   * Draw pictures by their prompts alone and note at every step what is to be predicted there.
   * @param prompts  of B pictures, a multiple of those of a pass
   * @param noise    standard normal, [B · C · h · w]
   * @param teacher  changes of the UNet that reads `own` of each prompt
   * @param driver   of the one whose predictions the latents follow, reading `fused`; null: the teacher's own
   * @param onStep   called after each step of the pictures of a pass
   * @returns step by step, B states in each
   * @throws {ShapeError} when deltas or text features do not fit
   * @throws {NumericalError} when latents stop being finite
   */
  async draw(
    prompts: readonly RefinePrompt[],
    noise: Float32Array,
    teacher: LayerDeltas,
    driver: LayerDeltas | null,
    onStep: () => void,
  ): Promise<RefineState[]> {
    const { pictures } = this.#rows;
    const pixels = noise.length / prompts.length;
    const parts: RefineState[][] = [];
    for (let first = 0; first < prompts.length; first += pictures) {
      const own = prompts.slice(first, first + pictures);
      const ownNoise = noise.slice(first * pixels, (first + pictures) * pixels);
      parts.push(await this.#drawTogether(own, ownNoise, teacher, driver, onStep));
    }
    return Array.from({ length: parts[0]!.length / pictures }, (_, step) =>
      parts.flatMap((states) => states.slice(step * pictures, (step + 1) * pictures)),
    ).flat();
  }

  /** The pictures of one pass. */
  async #drawTogether(
    prompts: readonly RefinePrompt[],
    noise: Float32Array,
    teacher: LayerDeltas,
    driver: LayerDeltas | null,
    onStep: () => void,
  ): Promise<RefineState[]> {
    const {
      sampler,
      execution: { signal },
    } = this.#options;
    const { latentHeight, latentWidth } = this.#size;
    const ask = this.#network(
      teacher,
      prompts.map(({ own }) => own),
    );
    const drive =
      driver === null
        ? ask
        : this.#network(
            driver,
            prompts.map(({ fused }) => fused),
          );
    const compared = this.#compared(new Map(), this.#options.noPrompt.own);
    const pixels = noise.length / prompts.length;
    const states: RefineState[] = [];
    await runGuided({
      sampler,
      rows: this.#rows,
      shape: [this.#config.inChannels, latentHeight, latentWidth],
      noise,
      signal,
      predict: drive,
      onStep: async ({ pass, prediction, timestep }) => {
        const prompted = driver === null ? prediction : await ask(pass);
        const targets = await compared(pass, prompted);
        prompts.forEach((prompt, i) => {
          const of = (values: Float32Array): Float32Array => values.slice(i * pixels, (i + 1) * pixels);
          states.push({ latents: of(pass.feeds.sample.data), timestep, prompt, target: of(targets) });
        });
        onStep();
      },
    });
    return states;
  }

  /**
   * What is compared at states, each [C · h · w], as a model predicts it that reads `fused` of their prompts.
   * @param states a multiple of the pictures of a pass
   */
  async predict(states: readonly RefineState[], deltas: LayerDeltas): Promise<Float32Array[]> {
    const { pictures } = this.#rows;
    const compared = this.#compared(deltas, this.#options.noPrompt.fused);
    const predictions: Float32Array[] = [];
    for (let first = 0; first < states.length; first += pictures) {
      const part = states.slice(first, first + pictures);
      const ask = this.#network(
        deltas,
        part.map(({ prompt }) => prompt.fused),
      );
      const pass = { feeds: stateFeeds(part, this.#rows, this.#size, this.#config) };
      const all = await compared(pass, await ask(pass));
      const cells = all.length / pictures;
      predictions.push(...part.map((_, i) => all.slice(i * cells, (i + 1) * cells)));
    }
    return predictions;
  }

  /** Free the session's memory. */
  dispose(): Promise<void> {
    return this.#session.dispose();
  }

  /**
   * What is compared, of a pass and its predictions with prompts: e_c − w e_∅, where e_∅ is a model's own.
   * @param deltas that model's, which reads `noPrompt`
   */
  #compared(
    deltas: LayerDeltas,
    noPrompt: PromptReading,
  ): (pass: Pick<Pass, 'feeds'>, prompted: Float32Array) => Promise<Float32Array> {
    const { unprompted } = this.#options;
    if (unprompted === 0) return async (_, prompted) => prompted;
    const without = this.#network(deltas, Array(this.#rows.pictures).fill(noPrompt));
    return async (pass, prompted) => {
      const other = await without(pass);
      return prompted.map((value, i) => value - unprompted * other[i]!);
    };
  }

  /** What a model predicts for all rows of a pass. */
  #network(
    deltas: LayerDeltas,
    prompts: readonly PromptReading[],
  ): (pass: Pick<Pass, 'feeds'>) => Promise<Float32Array> {
    const fixed = {
      ...deltaFeeds(deltas, this.#ranks, this.#layers),
      ...conditioningFeeds(stackedConditioning(prompts.map(({ conditioning }) => conditioning))),
    };
    return async ({ feeds }) => {
      const { noise_pred } = await this.#session.run({ ...feeds, ...fixed });
      return noise_pred!.data as Float32Array;
    };
  }
}

/** Latents and timesteps of the pictures of one pass, as the UNet takes them. */
export function stateFeeds(
  states: readonly RefineState[],
  rows: GuidedRows,
  { latentHeight, latentWidth }: Pick<UnetSize, 'latentHeight' | 'latentWidth'>,
  { inChannels }: Pick<UnetConfig, 'inChannels'>,
): Pass['feeds'] {
  const latents = float32([states.length, inChannels, latentHeight, latentWidth]);
  const timesteps = float32([states.length]);
  states.forEach((state, i) => {
    latents.data.set(state.latents, i * state.latents.length);
    timesteps.data[i] = state.timestep;
  });
  return { sample: rows.both(latents), timestep: rows.both(timesteps) };
}
