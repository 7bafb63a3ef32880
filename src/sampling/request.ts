/** What a run of the sampler is asked for, with its defaults, and the checks that need no network. */

import type { BoundVocabulary } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { Picture } from '../formats/picture.ts';
import { checkAdapterFits } from '../models/adapter/open.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { checkControlNetFits } from '../models/controlnet/open.ts';
import type { PictureSizes } from '../models/families/conditioning.ts';
import { BASE_FAMILIES, DEFAULT_FAMILY } from '../models/families/families.ts';
import { nearestName } from '../nearest-name.ts';
import { defined } from '../settings.ts';
import { AUTO_ISOLATE, type AutoRegions, checkAutoRegions } from './auto-regions/auto-regions.ts';
import { COMBINATION_NAMES, COMBINATIONS, type CombinationName } from './combine.ts';
import type { ConceptUse } from './concept-places.ts';
import { checkStates, type StatesInPlace } from './given-states.ts';
import type { AdapterGuide, ControlGuide } from './guides.ts';
import {
  MAX_BATCH,
  MAX_COUNT,
  MAX_GUIDANCE,
  MAX_ORIGINAL_SIDE,
  MAX_PIXELS,
  MAX_PROMPT_LENGTH,
  MAX_REGION_WEIGHT,
  MAX_REGIONS,
  MAX_SEED,
  MAX_SIDE,
  MAX_STEPS,
  MAX_STRENGTH,
  rangeMessage,
} from './limits.ts';
import { checkRegion, type Region } from './region.ts';
import type { ScheduleOverrides } from './scheduler-options.ts';

export interface SampleRequest extends StatesInPlace {
  /** The context: what rules where no region covers. Weights `(word:1.2)` and any length. */
  readonly prompt: string;
  /** Default: none, which is features of zeros where the model says so, and the empty text elsewhere. */
  readonly negativePrompt?: string;
  /**
   * What the second text encoder reads in the context in place of `prompt`, where a base has two (diffusers' `prompt_2`). Default, and
   * where it is empty: the same.
   */
  readonly prompt2?: string;
  /** The same of the negative prompt; not read where there is no negative prompt and that is zeros. */
  readonly negativePrompt2?: string;
  /** Other prompts for single cross-attention layers, by index in context order. Default none. */
  readonly layerPrompts?: ReadonlyMap<number, string>;
  /** Texts with their places. Default none. */
  readonly regions?: readonly Region[];
  /** Regions that find their places while the picture is drawn; not beside `regions`. Default none. */
  readonly autoRegions?: AutoRegions;
  /** Concepts of the pipeline that act where the context rules. Default: all. */
  readonly concepts?: readonly ConceptUse[];
  /** How concepts that act in the context act together: `switch` and `composite` are for prompts without regions. Default `sum`. */
  readonly combine?: CombinationName;
  /** Share of the steps, from the first, in which regions keep to themselves (see region-parts.ts), 0 … 1. Default 0, of `autoRegions` 0.5. */
  readonly isolate?: number;
  /** Pixels, a multiple of the autoencoder's factor (8 for SD 1.x). Default: what the model was trained at. */
  readonly width?: number;
  readonly height?: number;
  /** What the model is told of the picture's origin, if it reads that (SDXL). Default: a whole picture of this size. */
  readonly originalSize?: PictureSizes['originalSize'];
  readonly crop?: PictureSizes['crop'];
  /** How large it is told that the picture becomes. Default: as large as it does. */
  readonly targetSize?: PictureSizes['originalSize'];
  /** The same for what the picture does not show. Default: as for the prompt. */
  readonly negativeSizes?: PictureSizes;
  /** Default 25. */
  readonly steps?: number;
  /** 1 or less: no guidance, the negative prompt is not used. Default 7.5. */
  readonly guidanceScale?: number;
  /** 0 … 1, see guidance.ts. Default 0. */
  readonly guidanceRescale?: number;
  /** A short name, e.g. `euler-a`. Default: the family's, `dpmpp-2m` or `euler`. */
  readonly sampler?: string;
  /** Changes to the model's own schedule. Default none. */
  readonly schedule?: ScheduleOverrides;
  /** DDIM: share of fresh noise. Default 0. */
  readonly eta?: number;
  /** Of the first picture; each further one takes the next number. Default 0. */
  readonly seed?: number;
  /** Default 1. */
  readonly count?: number;
  /** Pictures per pass of the UNet. Default 1. */
  readonly batchSize?: number;
  /**
   * Where pictures of a batch take their noise: each from its own seed (default), or all from the first one's
   * generator, as diffusers does for `num_images_per_prompt`.
   */
  readonly batchNoise?: 'own' | 'shared';
  /**
   * Noise to begin from in place of what the seed gives, per picture [C, h, w] of unit normal numbers (diffusers calls
   * it `latents`). Samplers with fresh noise still draw that from the seed. Default none.
   */
  readonly initialNoise?: readonly Float32Array[];
  /** Image to image: where to start from, of the wanted size, and how much of the way to go back, 0 … 1. Default none. */
  readonly init?: { readonly picture: Picture; readonly denoise: number };
  /** T2I-Adapters; their features are added up. Default none. */
  readonly adapters?: readonly AdapterGuide[];
  /** ControlNets; their residuals are added up. Default none. */
  readonly controls?: readonly ControlGuide[];
}

export const REQUEST_DEFAULTS = {
  layerPrompts: new Map<number, string>(),
  regions: [],
  combine: 'sum',
  isolate: 0,
  steps: 25,
  guidanceScale: 7.5,
  guidanceRescale: 0,
  schedule: {},
  eta: 0,
  seed: 0,
  count: 1,
  batchSize: 1,
  batchNoise: 'own',
  adapters: [],
  controls: [],
} as const satisfies Partial<SampleRequest>;

/** The sampler of each family where nobody asks for another: `dpmpp-2m, for SDXL euler`. */
export const DEFAULT_SAMPLERS: string = defaultSamplers();

function defaultSamplers(): string {
  const usual = DEFAULT_FAMILY.base.sampler;
  const others = BASE_FAMILIES.filter(({ base }) => base.sampler !== usual);
  return [usual, ...others.map(({ shortTitle, base }) => `for ${shortTitle} ${base.sampler}`)].join(', ');
}

/** A request with its defaults; width and height are the model's own where none are given. */
export type ResolvedRequest = SampleRequest &
  Required<Pick<SampleRequest, keyof typeof REQUEST_DEFAULTS | 'width' | 'height' | 'sampler'>>;

/**
 * Defaults in place and everything checked that needs no network.
 * @param factor pixels per latent cell
 * @throws {UsageError} for sizes, counts, shares, regions or guiding pictures that cannot be
 */
export function resolveRequest(
  request: SampleRequest,
  base: Checkpoint,
  factor: number,
  layerCount: number,
): ResolvedRequest {
  const size = base.parts.unet.config.sampleSize * factor;
  const defaults = {
    width: size,
    height: size,
    ...REQUEST_DEFAULTS,
    ...(request.autoRegions === undefined ? {} : { isolate: AUTO_ISOLATE }),
    sampler: base.family.base.sampler,
    prompt: request.prompt,
  };
  const resolved: ResolvedRequest = { ...defaults, ...defined(request) };
  const { width, height, regions, isolate, init, initialNoise, adapters, controls } = resolved;
  checkPictureSize(width, height, factor);
  for (const [name, limit] of WHOLE_NUMBERS) {
    const value = resolved[name];
    if (!(Number.isSafeInteger(value) && value >= 1 && value <= limit)) {
      throw new UsageError(`${name}: ${rangeMessage(1, limit, value, 'a whole number of ')}`);
    }
  }
  if (!(Number.isSafeInteger(resolved.seed) && Math.abs(resolved.seed) <= MAX_SEED)) {
    throw new UsageError(`seed: ${rangeMessage(-MAX_SEED, MAX_SEED, resolved.seed, 'a whole number of ')}`);
  }
  for (const name of ['isolate', 'guidanceRescale', 'eta'] as const) {
    const value = resolved[name];
    if (!(value >= 0 && value <= 1)) throw new UsageError(`${name}: ${rangeMessage(0, 1, value)}`);
  }
  if (!(Math.abs(resolved.guidanceScale) <= MAX_GUIDANCE)) {
    throw new UsageError(`guidance: ${rangeMessage(-MAX_GUIDANCE, MAX_GUIDANCE, resolved.guidanceScale)}`);
  }
  for (const [name, sizes] of sizesOf(resolved)) checkSizes(name, sizes);
  checkCombination(resolved);
  if (resolved.autoRegions !== undefined) checkAuto(resolved, resolved.autoRegions);
  for (const { strength = 1 } of [...adapters, ...controls]) checkStrength(strength);
  for (const { strength } of adapters.flatMap(({ regionStrengths = [] }) => regionStrengths)) {
    checkStrength(strength);
  }
  if (regions.length > MAX_REGIONS) {
    throw new UsageError(`regions: expected at most ${MAX_REGIONS}, got ${regions.length}`);
  }
  if (
    `${resolved.prompt2 ?? ''}${resolved.negativePrompt2 ?? ''}` !== '' &&
    base.parts.textEncoders.size < 2
  ) {
    throw new UsageError(
      `second prompt: expected a base with two text encoders, got ${base.family.title} (${base.path}), which has one`,
    );
  }
  for (const text of textsOf(resolved)) {
    if (text.length > MAX_PROMPT_LENGTH) {
      throw new UsageError(
        `prompt "${excerpt(text)}": expected at most ${MAX_PROMPT_LENGTH} characters, got ${text.length}`,
      );
    }
  }
  regions.forEach(({ shape, weight = 1 }, i) => {
    checkRegion(`region ${i + 1}`, shape, height / factor, width / factor);
    if (!(weight >= 1 / MAX_REGION_WEIGHT && weight <= MAX_REGION_WEIGHT)) {
      throw new UsageError(
        `region ${i + 1}: ${rangeMessage(1 / MAX_REGION_WEIGHT, MAX_REGION_WEIGHT, weight, 'a weight of ')}`,
      );
    }
  });
  const { crossAttentionDim } = base.parts.unet.config;
  for (const [where, { promptStates, negativeStates }] of [
    ['prompt', resolved] as const,
    ...regions.map((region, i) => [`region ${i + 1}`, region] as const),
  ]) {
    for (const states of [promptStates, negativeStates]) {
      if (states !== undefined) checkStates(where, states, base.parts.maxPositions, crossAttentionDim);
    }
  }
  if (isolate > 0 && regions.length === 0 && resolved.autoRegions === undefined)
    throw new UsageError('isolate: there are no regions to keep apart');
  for (const index of resolved.layerPrompts.keys()) {
    if (!(Number.isInteger(index) && index >= 0 && index < layerCount)) {
      throw new UsageError(`style mix: expected layers 0 … ${layerCount - 1}, got ${index}`);
    }
  }
  for (const { adapter } of adapters) checkAdapterFits(adapter, base, factor);
  for (const { controlNet } of controls) checkControlNetFits(controlNet, base, factor);
  if (initialNoise !== undefined) {
    const size = (base.parts.unet.config.inChannels * width * height) / factor ** 2;
    const lengths = initialNoise.map(({ length }) => length);
    if (lengths.length !== resolved.count || lengths.some((length) => length !== size)) {
      throw new UsageError(
        `initial noise: expected ${resolved.count} × ${size} numbers, got ${lengths.join(', ') || 'none'}`,
      );
    }
  }
  const pictures = [
    ...(init === undefined ? [] : [['initial picture', init.picture] as const]),
    ...adapters.map(({ picture }) => ['adapter picture', picture] as const),
    ...controls.map(({ picture }) => ['ControlNet picture', picture] as const),
  ];
  for (const [what, picture] of pictures) {
    if (picture.width !== width || picture.height !== height) {
      throw new UsageError(
        `${what}: expected ${width} × ${height} pixels, got ${picture.width} × ${picture.height}`,
      );
    }
  }
  return resolved;
}

const WHOLE_NUMBERS = [
  ['count', MAX_COUNT],
  ['batchSize', MAX_BATCH],
  ['steps', MAX_STEPS],
] as const;

/** Sizes that a request tells the model, with their names. */
function sizesOf({
  originalSize,
  crop,
  targetSize,
  negativeSizes,
}: SampleRequest): [string, object | undefined][] {
  const { originalSize: original, crop: cut, ...target } = negativeSizes ?? {};
  return [
    ['original size', originalSize],
    ['crop', crop],
    ['target size', targetSize],
    ['negative sizes', { ...target, ...original, ...cut }],
  ];
}

function checkSizes(name: string, sizes: object = {}): void {
  for (const value of Object.values(sizes)) {
    if (Number.isSafeInteger(value) && value >= 0 && value <= MAX_ORIGINAL_SIDE) continue;
    throw new UsageError(`${name}: ${rangeMessage(0, MAX_ORIGINAL_SIDE, value, 'whole numbers of ')} pixels`);
  }
}

/** @throws {UsageError} for a way that there is not, or one that regions have no use for */
function checkCombination({ combine, regions }: ResolvedRequest): void {
  if (!Object.hasOwn(COMBINATIONS, combine)) {
    throw new UsageError(`combine: expected ${COMBINATION_NAMES.join(', ')}, got "${excerpt(combine)}"`);
  }
  if (!COMBINATIONS[combine].apart || regions.length === 0) return;
  throw new UsageError(
    `combine: ${combine} is for one prompt without regions, which give each concept its place; leave out one of them`,
  );
}

/** @throws {UsageError} for what regions that find their places cannot stand beside */
function checkAuto(
  { regions, combine, layerPrompts, promptStates, negativeStates, prompt2, negativePrompt2 }: ResolvedRequest,
  auto: AutoRegions,
): void {
  checkAutoRegions(auto);
  const beside = [
    regions.length > 0 ? 'drawn regions' : null,
    COMBINATIONS[combine].apart ? `combine ${combine}` : null,
    layerPrompts.size > 0 ? 'a style mix' : null,
    prompt2 || negativePrompt2 ? 'a prompt of the second text encoder' : null,
    promptStates !== undefined || negativeStates !== undefined ? "states in a prompt's place" : null,
  ].find((what) => what !== null);
  if (beside === undefined) return;
  throw new UsageError(`autoRegions: places are found for words of one plain prompt, not beside ${beside}`);
}

/** Every text of a request. */
export function textsOf({
  prompt,
  negativePrompt = '',
  prompt2 = '',
  negativePrompt2 = '',
  regions = [],
  layerPrompts,
  autoRegions,
}: SampleRequest): string[] {
  const inRegions = [...regions, ...(autoRegions?.regions ?? [])].flatMap((region) => [
    region.prompt,
    region.negativePrompt ?? '',
  ]);
  const own = [prompt, negativePrompt, prompt2, negativePrompt2];
  return [...own, ...inRegions, ...(layerPrompts?.values() ?? [])];
}

function checkStrength(value: number): void {
  if (Math.abs(value) <= MAX_STRENGTH) return;
  throw new UsageError(`strength of a guiding picture: ${rangeMessage(-MAX_STRENGTH, MAX_STRENGTH, value)}`);
}

/** @throws {UsageError} unless both sides are multiples of the factor, and sides and pixels within limits */
export function checkPictureSize(width: number, height: number, factor: number): void {
  checkSize('width', width, factor);
  checkSize('height', height, factor);
  if (width * height > MAX_PIXELS) {
    throw new UsageError(
      `width × height: expected at most ${MAX_PIXELS} pixels, got ${width} × ${height} = ${width * height}`,
    );
  }
}

function checkSize(name: string, value: number, factor: number): void {
  if (value > MAX_SIDE) throw new UsageError(`${name}: ${rangeMessage(factor, MAX_SIDE, value)} pixels`);
  if (Number.isSafeInteger(value) && value >= factor && value % factor === 0) return;
  const low = Math.max(factor, Math.floor(value / factor) * factor);
  const hint = Number.isFinite(value) ? `; ${low} and ${low + factor} work` : '';
  throw new UsageError(`${name}: expected a multiple of ${factor} pixels, got ${value}${hint}`);
}

/** Unknown words for which the nearest known one is looked up; nobody reads on after these. */
const MAX_COMPARED = 20;

/** A word in pointed brackets that the model does not know. */
export interface UnknownWord {
  readonly word: string;
  /** The known concept word it is nearest to, if any is near. */
  readonly nearest: string | null;
}

/** Concept words (`<…>`) in prompts that neither the vocabulary nor the tokenizer knows: they are read as letters. */
export function unknownWords(prompts: Iterable<string>, vocabulary: BoundVocabulary): UnknownWord[] {
  const known = [
    ...vocabulary.tokens.map(({ word }) => word),
    ...vocabulary.tokenizer.addedTokens.map(({ word }) => word).filter((word) => /^<[^|]*>$/.test(word)),
  ];
  const lower = new Set(known.map((word) => word.toLowerCase()));
  const words = new Set([...prompts].flatMap((prompt) => prompt.match(/<[^<>|\s]+>/g) ?? []));
  const candidates = vocabulary.tokens.length > 0 ? vocabulary.tokens.map(({ word }) => word) : known;
  return [...words]
    .filter((word) => !lower.has(word.toLowerCase()))
    .map((word, i) => ({ word, nearest: i < MAX_COMPARED ? nearestName(word, candidates) : null }));
}
