/**
 * Prompt to picture: the denoising loop with its seeds, guidance and regions, and a pipeline that stays loaded over
 * several pictures. Source of the whole: diffusers, pipelines/stable_diffusion/pipeline_stable_diffusion.py.
 */
import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { type Conditioning, timeIdsOf } from '../models/families/conditioning.ts';
import { type ModelDeltas, sumDeltas } from '../models/lora.ts';
import { vaeFactor } from '../models/vae/config.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
} from '../runtime/execution-context.ts';
import { halvesAreWidenedInRuns } from '../runtime/half-weights.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { type FoundPicture, findingRun } from './auto-regions/finding-run.ts';
import type { FoundPlace } from './auto-regions/found-places.ts';
import { checkpointSampler } from './checkpoint-schedule.ts';
import { COMBINATIONS, combinedModels } from './combine.ts';
import type { CombinedModel } from './combined-model.ts';
import { alikeSources, type ConceptUses, conceptStrengths, type SourceStrengths } from './concept-places.ts';
import { DenoisingRun, type OnStep } from './denoising-run.ts';
import { type StatesInPlace, withStates } from './given-states.ts';
import { guidedPair } from './guidance.ts';
import { LatentCodec } from './latent-codec.ts';
import { type EncoderTexts, type LayerTexts, PromptEncoder } from './prompt-encoder.ts';
import { ownSize, type RegionShape } from './region.ts';
import { type ResolvedRequest, resolveRequest, type SampleRequest } from './request.ts';
import { checkRequestMemory, maskCount } from './request-memory.ts';
import { createSampler } from './samplers/create.ts';
import { SlowestStep } from './slowest-step.ts';
import { UnetDenoiser } from './unet-denoiser.ts';

export interface PipelineParts extends ExecutionRequest {
  /** Words of concepts with their embeddings. Default: the base's own words alone. */
  readonly vocabulary?: BoundVocabulary;
  /** Changes of the base everywhere, by layer id, strengths inside. Default none. */
  readonly deltas?: ModelDeltas;
  /** Changes that act where a request says it, in the context or in regions. Default none. */
  readonly placedDeltas?: readonly ModelDeltas[];
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
  /** Where the request's `autoRegions` were drawn at last, in their order; none without them. */
  readonly found: readonly FoundPlace[];
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

/** Pictures with places of their own that are drawn at a time, call by call. Their latents are all that each of them holds. */
const SIDE_BY_SIDE = 8;

/** How many are drawn at a time. What guides a picture has networks of its own, which are not to be held for several. */
const sideBySide = ({ init, adapters, controls }: ResolvedRequest): number =>
  init === undefined && adapters.length + controls.length === 0 ? SIDE_BY_SIDE : 1;

/** A base with its changes, loaded once for any number of pictures. Dispose it when done. */
export class Pipeline {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  /** Pixels per latent cell. */
  readonly factor: number;
  readonly #deltas: ModelDeltas;
  readonly #concepts: readonly ModelDeltas[];
  readonly #clipSkip: number;
  /** Of the text encoder with its concepts' changes, by their strengths. */
  readonly #prompts = new Map<string, PromptEncoder>();
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
    const { deltas = new Map(), placedDeltas = [], clipSkip = 0 } = parts;
    const layerCount = base.parts.layers.contextCount;
    this.base = base;
    this.factor = factor;
    this.vocabulary = parts.vocabulary ?? bindConcepts(base.parts.tokenizers, [], layerCount);
    this.#deltas = deltas;
    this.#concepts = placedDeltas;
    this.#clipSkip = clipSkip;
    this.#unet = new UnetDenoiser(base, deltas, execution, placedDeltas);
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
    const { sampler: name, schedule, steps, eta, count, seed } = resolved;
    // Places that are found are one picture's: such pictures share networks, not passes.
    const batchSize = resolved.autoRegions === undefined ? resolved.batchSize : sideBySide(resolved);
    const config = checkpointSampler(this.base, name, schedule);
    const strengths = conceptStrengths(usesOf(resolved), this.#concepts.length);
    const models: CombinedModel[] = [];
    for (const { unet, textEncoder } of combinedModels(COMBINATIONS[resolved.combine], strengths)) {
      models.push({ sources: await this.#encode(resolved, textEncoder), strengths: unet });
    }
    const run = new DenoisingRun({
      base: this.base,
      request: resolved,
      unet: this.#unet,
      codec: this.#codec,
      sampler: createSampler(config, steps, { eta }),
      models,
      factor: this.factor,
      execution: this.#execution,
      signal,
    });
    const draw = this.#drawing(run, resolved, models[0]!);
    const { keep = true } = hooks;
    const done: SampledPicture[] = [];
    let index = 0;
    for (let first = 0; first < count; first += batchSize) {
      const pictures = Array.from({ length: Math.min(batchSize, count - first) }, (_, i) => first + i);
      const batch = await draw(pictures, ({ done: step, calls: steps, predicted }) =>
        hooks.onStep?.({ pictures, step, steps, preview: () => this.#codec.decode(predicted) }),
      );
      // Loaded again in no time, and the decoder needs the memory.
      if (halvesAreWidenedInRuns()) await this.#unet.dispose();
      for (const { latents, found } of batch) {
        signal?.throwIfAborted();
        const decoded = await this.#codec.decode(latents);
        const picture = { ...decoded, index, seed: seed + index, latents, found };
        if (keep) done.push(picture);
        await hooks.onPicture?.(picture);
        index++;
      }
    }
    return done;
  }

  /** How the pictures of a batch are drawn. */
  #drawing(
    run: DenoisingRun,
    request: ResolvedRequest,
    model: CombinedModel,
  ): (pictures: readonly number[], onStep: OnStep) => Promise<FoundPicture[]> {
    const { autoRegions: auto, prompt } = request;
    if (auto === undefined) {
      const places = run.drawnPlaces();
      return async (pictures, onStep) =>
        (await run.denoise(pictures, places, onStep)).map((latents) => ({ latents, found: [] }));
    }
    const encoder = this.#promptsWith(this.#concepts.map(() => 0));
    const positions = auto.regions.map(({ words }) => wordsTogether(encoder.wordPositions(prompt, words)));
    positions.forEach((layers, i) => {
      if (layers.every((own) => own.length > 0)) return;
      throw new UsageError(
        `autoRegions: region ${i + 1}: "${excerpt(auto.regions[i]!.words.join(' '))}" is not in the prompt`,
      );
    });
    const find = findingRun(run, {
      base: this.base,
      request,
      auto,
      model,
      positions,
      factor: this.factor,
      toldSizes: (shape) => this.#toldSizes(request, shape),
    });
    return (pictures, onStep) => {
      const steps = new SlowestStep(pictures, onStep);
      return run.sideBySide(pictures, (index) => find(index, steps.of(index)));
    };
  }

  /** Text features of context and regions, each read with the concepts that act there. */
  async #encode(request: ResolvedRequest, strengths: SourceStrengths): Promise<Conditioning[][]> {
    const { layerCount } = this.vocabulary;
    const everywhere = (text: EncoderTexts): EncoderTexts[] => Array<EncoderTexts>(layerCount).fill(text);
    const { guidanceScale, layerPrompts, prompt2, negativePrompt2 } = request;
    const places = sourceTexts(request);
    const sources = places.map(({ prompt, negativePrompt, promptStates, negativeStates }, place) => {
      const context = place === 0;
      const own = everywhere(promptStates === undefined ? inBoth(prompt, context ? prompt2 : '') : '');
      const positive = context ? own.map((text, layer) => layerPrompts.get(layer) ?? text) : own;
      const negative = negativeStates === undefined ? negativePrompt : '';
      return guidedPair<LayerTexts | null>(
        guidanceScale,
        negative === undefined ? null : everywhere(inBoth(negative, context ? negativePrompt2 : '')),
        positive,
      );
    });
    const encoded = new Array<Conditioning[]>(sources.length);
    for (const group of alikeSources(strengths, sources.length)) {
      const own = await this.#promptsWith(group.strengths).encode(
        group.sources.map((source) => sources[source]!),
      );
      group.sources.forEach((source, i) => {
        encoded[source] = own[i]!;
      });
    }
    const none: ReadonlyMap<number, string> = new Map();
    const timeIds = this.#toldSizes(request);
    const apart = [timeIds, ...request.regions.map(({ shape }) => this.#toldSizes(request, shape))];
    return encoded.map((pair, place) => {
      const { promptStates, negativeStates } = places[place]!;
      const given = guidedPair(
        guidanceScale,
        { states: negativeStates, except: none },
        { states: promptStates, except: place === 0 ? layerPrompts : none },
      );
      return pair.map((own, i) => ({
        ...withStates(own, given[i]!.states, given[i]!.except),
        timeIds: timeIds[i],
        timeIdsApart: (apart[place] ?? timeIds)[i],
      }));
    });
  }

  /** The sizes that a UNet reads, for each row of a picture. @param shape of a region that keeps to itself. Default: the whole picture */
  #toldSizes(request: ResolvedRequest, shape?: RegionShape): readonly (Tensor<Float32Array> | undefined)[] {
    const { config } = this.base.parts.unet;
    const own = shape === undefined ? {} : ownSize(shape, request, this.factor);
    const sizes = { ...request, ...own, ...request.targetSize };
    const { negativeSizes = sizes } = request;
    return guidedPair(request.guidanceScale, timeIdsOf(config, negativeSizes), timeIdsOf(config, sizes));
  }

  /** @param strengths of the concepts in the text encoder */
  #promptsWith(strengths: readonly number[]): PromptEncoder {
    const key = strengths.join();
    const known = this.#prompts.get(key);
    if (known !== undefined) return known;
    const deltas = sumDeltas([this.#deltas, ...this.#concepts], [1, ...strengths]);
    const encoder = new PromptEncoder(this.base, this.vocabulary, deltas, this.#clipSkip, this.#execution);
    this.#prompts.set(key, encoder);
    return encoder;
  }

  async dispose(): Promise<void> {
    await this.#unet.dispose();
    await this.#codec.dispose();
  }
}

/** A text, and what the second text encoder reads in its place, if anything. Source: diffusers, `prompt_2 = prompt_2 or prompt`. */
function inBoth(text: string, second = ''): EncoderTexts {
  return second === '' ? text : [text, second];
}

/** The texts that share a picture: the context, then those of regions; of regions that find their places, the whole prompt at last. */
function sourceTexts(
  request: ResolvedRequest,
): readonly (StatesInPlace & { readonly prompt: string; readonly negativePrompt?: string })[] {
  const { autoRegions: auto, prompt, negativePrompt } = request;
  if (auto === undefined) return [request, ...request.regions];
  return [
    { prompt: auto.background, negativePrompt },
    ...auto.regions.map((region) => ({ negativePrompt, ...region })),
    { prompt, negativePrompt },
  ];
}

/** Where concepts act, source by source. */
function usesOf({ concepts, regions, autoRegions: auto }: ResolvedRequest): ConceptUses {
  return { concepts, regions: auto === undefined ? regions : [...auto.regions, { concepts }] };
}

/** Positions of several words by layer. @param positions [word][layer][position] */
function wordsTogether(positions: readonly (readonly (readonly number[])[])[]): number[][] {
  return positions[0]!.map((_, layer) =>
    [...new Set(positions.flatMap((word) => word[layer]!))].sort((a, b) => a - b),
  );
}
