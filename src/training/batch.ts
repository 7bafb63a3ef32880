/** The k-th batch of a run: which views, their prompts, noise, timesteps, targets and weights. */

import { joinedRows, timeIdsOf } from '../models/families/conditioning.ts';
import type { PromptIds, TokenIds } from '../models/families/prompt-ids.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import type { NoiseSchedule } from '../sampling/noise-schedule.ts';
import type { TorchGenerator } from '../tensor/random.ts';
import { BatchOrder, batchSharingCaptions } from './data/batch-order.ts';
import { drawCaption, templated, withWords } from './data/captions.ts';
import type { TrainingItem } from './data/latent-cache.ts';
import {
  maskedWeights,
  noisyBatch,
  type PredictionType,
  plainWeights,
  weightedBySnr,
} from './loss-weights.ts';
import type { ResolvedSettings } from './methods/method.ts';
import { bestSharedPrefix, commonPrefix } from './prompt-prefix.ts';
import type { StepBatch } from './step.ts';
import { drawTimesteps } from './timesteps.ts';
import type { Trainables } from './trainables.ts';

export interface BatchSources {
  readonly items: readonly TrainingItem[];
  /** Empty without prior preservation. */
  readonly classItems: readonly TrainingItem[];
  readonly settings: ResolvedSettings;
  readonly trainables: Trainables;
  /** Positions that the text encoder sees at once, 77. */
  readonly window: number;
  readonly schedule: NoiseSchedule;
  readonly unet: UnetConfig;
  readonly prediction: PredictionType;
}

/** Purposes of the random orders. */
const ORDER = { pictures: 10, classPictures: 11 } as const;

export class BatchMaker {
  readonly #sources: BatchSources;
  readonly #order: BatchOrder<TrainingItem>;
  readonly #classOrder: BatchOrder<TrainingItem> | null;
  readonly #encoded = new Map<string, readonly PromptIds[]>();

  constructor(sources: BatchSources) {
    const { items, classItems, settings } = sources;
    this.#sources = sources;
    this.#order = new BatchOrder(items, settings.batch, settings.seed, ORDER.pictures);
    this.#classOrder =
      classItems.length === 0
        ? null
        : new BatchOrder(classItems, settings.batch, settings.seed, ORDER.classPictures);
  }

  /** @param number counts batches from 0, accumulated ones too */
  make(number: number, random: TorchGenerator): StepBatch {
    const { settings, schedule, prediction, unet } = this.#sources;
    const own =
      settings.captionsPerBatch > 0
        ? batchSharingCaptions(this.#sources.items, settings.batch, settings.captionsPerBatch, random)
        : this.#order.at(number);
    const others = this.#classOrder?.at(number) ?? [];
    const rows = [...own, ...others];
    const { latentHeight, latentWidth } = own[0]!;
    const cells = latentHeight * latentWidth;
    const channels = own[0]!.mean.length / cells;
    const prompts = this.#equallyLong([
      ...own.map((item) => this.#encode(this.#prompt(item, number, random))),
      ...others.map(({ caption }) => this.#encode(caption)),
    ]);
    const latents = concatenated(rows.map((item) => drawLatents(item, settings.latents, random)));
    const noise = random.randn(latents.length);
    if (settings.noiseOffset > 0) {
      const offsets = random.randn(rows.length * channels);
      for (let i = 0; i < noise.length; i++)
        noise[i]! += settings.noiseOffset * offsets[Math.floor(i / cells)]!;
    }
    const timesteps = drawTimesteps(settings.timesteps, rows.length, schedule.alphasCumprod.length, random);
    const masks = concatenated(own.map(({ mask }) => mask ?? new Float32Array(cells).fill(1)));
    const weights = [
      own.some(({ mask }) => mask !== null)
        ? maskedWeights(masks, own.length)
        : plainWeights(own.length, channels, cells),
      ...(others.length === 0 ? [] : [plainWeights(others.length, channels, cells, settings.priorWeight)]),
    ];
    const timeIds = rows.flatMap(({ sizes }) => timeIdsOf(unet, sizes) ?? []);
    const words = prompts.map((layers) => this.#wordPlaces(layers[0]![0]!));
    return {
      latentHeight,
      latentWidth,
      ...noisyBatch(schedule, latents, noise, timesteps, prediction),
      timesteps,
      lossWeights: weightedBySnr(
        concatenated(weights),
        timesteps,
        schedule,
        prediction,
        settings.minSnrGamma,
      ),
      prompts,
      timeIds: timeIds.length === 0 ? undefined : joinedRows(timeIds),
      attention: {
        masks: concatenated([masks, ...others.map(() => new Float32Array(cells).fill(1))]),
        words,
      },
    };
  }

  /** Positions at the beginning that the layer prompts of the captions have in common, see `bestSharedPrefix`. */
  sharedPrefix(): number {
    const { items, settings, trainables, window } = this.#sources;
    return bestSharedPrefix(
      items
        .flatMap(({ caption }) => templated(withWords(caption, trainables.plan.words), settings.templates))
        .map((prompt) => this.#encode(prompt).map(([ids]) => ids!.slice(0, window)))
        // Prompts without new words are the same for all layers.
        .filter((layers) => layers.some((ids) => ids.join() !== layers[0]!.join()))
        .map((layers) => commonPrefix(layers, null)),
    );
  }

  /** Where a prompt has both words of a concept: words come in pairs, one pair a concept. */
  #wordPlaces(ids: readonly number[]): readonly [number, number] | null {
    const { tokens } = this.#sources.trainables.vocabulary;
    for (let pair = 0; pair + 1 < tokens.length; pair += 2) {
      const [adjective, subject] = [0, 1].map((word) => {
        const known = tokens[pair + word]!.ids;
        return ids.findIndex((id) => known.includes(id));
      }) as [number, number];
      if (adjective >= 0 && subject >= 0) return [adjective, subject];
    }
    return null;
  }

  #prompt(item: TrainingItem, number: number, random: TorchGenerator): string {
    const { settings, trainables } = this.#sources;
    const { words, pictureWords } = trainables.plan;
    let active = words;
    if (settings.progressive) {
      // The first vector from the start, the others one after the other, evenly over the run.
      const share = Math.floor(number / settings.accumulate) / settings.steps;
      const vectors = Math.min(settings.vectors, 1 + Math.floor(share * settings.vectors));
      active = words.filter((_, i) => i % settings.vectors < vectors);
    }
    const caption = drawCaption(withWords(item.caption, active), settings, random);
    return pictureWords.length === 0 || caption === ''
      ? caption
      : `${caption} with ${pictureWords[item.picture]}`;
  }

  /** Prompts of one batch share a number of windows: shorter ones are filled up with empty windows. */
  #equallyLong(prompts: readonly (readonly PromptIds[])[]): (readonly PromptIds[])[] {
    const { trainables, window } = this.#sources;
    const tokenizers = [...trainables.vocabulary.tokenizers.values()];
    const empty = tokenizers.map((tokenizer) => tokenizer.encodeWindows('', window));
    const longest = Math.max(...prompts.flat(2).map((ids) => ids.length));
    const fill = (ids: TokenIds, encoder: number): TokenIds =>
      ids.length === longest
        ? ids
        : [
            ...ids,
            ...Array((longest - ids.length) / window)
              .fill(empty[encoder]!)
              .flat(),
          ];
    return prompts.map((layers) => layers.map((prompt) => prompt.map(fill)));
  }

  #encode(prompt: string): readonly PromptIds[] {
    let ids = this.#encoded.get(prompt);
    if (ids === undefined) {
      const { tokenizers, layerPrompts } = this.#sources.trainables.vocabulary;
      const { window } = this.#sources;
      ids = layerPrompts(prompt).map((text) =>
        [...tokenizers.values()].map((tokenizer) => tokenizer.encodeWindows(text, window)),
      );
      this.#encoded.set(prompt, ids);
    }
    return ids;
  }
}

function drawLatents(
  { mean, deviation }: TrainingItem,
  mode: 'sample' | 'mean',
  random: TorchGenerator,
): Float32Array {
  if (mode === 'mean') return mean;
  const noise = random.randn(mean.length);
  return mean.map((value, i) => value + deviation[i]! * noise[i]!);
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
