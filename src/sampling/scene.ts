/**
 * A scene: everything that a picture is drawn from, as a file or a command line says it. Paths, names and numbers
 * only; nothing is opened here.
 */

import { resolve as absolute, basename, parse } from 'node:path';
import { z } from 'zod';
import { type EmbeddedPart, parseEmbedded } from '../deprojector/embed.ts';
import { UsageError } from '../errors.ts';
import { excerpt, lengthExcerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { PREDICTION_TYPES } from '../models/model-schedule.ts';
import { defined } from '../settings.ts';
import { takeEmbedTags } from './embed-tags.ts';
import {
  MAX_BATCH,
  MAX_CORNERS,
  MAX_COUNT,
  MAX_FEATHER,
  MAX_FILES,
  MAX_GUIDANCE,
  MAX_GUIDES,
  MAX_LAYERS,
  MAX_ORIGINAL_SIDE,
  MAX_PARTS,
  MAX_PATH_LENGTH,
  MAX_PROMPT_LENGTH,
  MAX_REGION_WEIGHT,
  MAX_REGIONS,
  MAX_SEED,
  MAX_SIDE,
  MAX_STEPS,
  MAX_STRENGTH,
  rangeMessage,
} from './limits.ts';
import { takeLoraTags } from './lora-tags.ts';
import { parseRegion, type RegionSpec, type ShapeSpec, type StrengthSpec } from './region-text.ts';

/** A number within limits; the message says both. */
const ranged = (low: number, high: number): z.ZodNumber =>
  z
    .number({ error: 'expected a number' })
    .min(low, { error: ({ input }) => rangeMessage(low, high, input) })
    .max(high, { error: ({ input }) => rangeMessage(low, high, input) });
const whole = (low: number, high: number): z.ZodInt =>
  z
    .int({ error: 'expected a whole number' })
    .min(low, { error: ({ input }) => rangeMessage(low, high, input) })
    .max(high, { error: ({ input }) => rangeMessage(low, high, input) });
const textUpTo = (length: number): z.ZodString =>
  z.string({ error: 'expected text' }).max(length, {
    error: ({ input }) => `expected at most ${length} characters, got ${lengthExcerpt(input)}`,
  });
const listUpTo = <T extends z.ZodType>(item: T, count: number): z.ZodArray<T> =>
  z.array(item).max(count, {
    error: ({ input }) => `expected at most ${count} entries, got ${(input as unknown[]).length}`,
  });

const prompt = textUpTo(MAX_PROMPT_LENGTH);
const name = textUpTo(1000);
const path = textUpTo(MAX_PATH_LENGTH)
  .min(1, { error: 'expected a path, got none' })
  .refine((value) => !value.includes('\0'), { error: 'expected a path without NUL' });
const number = z.number({ error: 'expected a number' });
const strength = ranged(-MAX_STRENGTH, MAX_STRENGTH);
const share = ranged(0, 1);

const pixels = (form: string) => {
  const side = whole(0, MAX_ORIGINAL_SIDE);
  return z.tuple([side, side], { error: `expected ${form}` });
};

const strengths = {
  /** Of both networks. Default 1. */
  strength: strength.optional(),
  unetStrength: strength.optional(),
  textEncoderStrength: strength.optional(),
};
const weights = z.union([path, z.strictObject({ path, ...strengths })]);

const part = z.union([
  textUpTo(MAX_PROMPT_LENGTH),
  z.strictObject({ text: prompt, weight: number.optional() }),
  z.strictObject({ image: path, weight: number.optional() }),
]);

/** What stands in place of a prompt: one kind of it at most. */
const inPlace = {
  /** Texts and pictures whose mean is drawn by the scene's `deprojector`; `maid:0.7` weighs. */
  embed: listUpTo(part, MAX_PARTS).optional(),
  negativeEmbed: listUpTo(part, MAX_PARTS).optional(),
  /** Files of states, as `deproject apply` writes them. */
  states: path.optional(),
  negativeStates: path.optional(),
};

/** Exactly one of them says where. Numbers are fractions of the picture if none is above 1, else pixels. */
const place = {
  /** left, top, right, bottom */
  box: z.tuple([number, number, number, number], { error: 'expected [left, top, right, bottom]' }).optional(),
  /** Corners x, y. */
  polygon: listUpTo(z.tuple([number, number], { error: 'expected [x, y]' }), MAX_CORNERS)
    .min(3, { error: 'expected three corners or more' })
    .optional(),
  /** A picture: white belongs to the region. */
  mask: path.optional(),
  /** Pixels over which edges fade. Default 0. */
  feather: ranged(0, MAX_FEATHER).optional(),
};
const onePlace = {
  check: (entry: { box?: unknown; polygon?: unknown; mask?: unknown }): boolean =>
    [entry.box, entry.polygon, entry.mask].filter((value) => value !== undefined).length === 1,
  error: 'expected exactly one of box, polygon and mask',
};

const region = z
  .strictObject({
    /** Not empty, unless something stands in its place. */
    prompt: prompt.optional(),
    negative: prompt.optional(),
    ...inPlace,
    ...place,
    /** Its part where regions overlap. Default 1. */
    weight: ranged(1 / MAX_REGION_WEIGHT, MAX_REGION_WEIGHT).optional(),
    /** LoRAs that act here alone, as `<lora:file:0.8>` in its prompt. */
    loras: listUpTo(weights, MAX_FILES).optional(),
  })
  .refine(onePlace.check, { error: onePlace.error })
  .refine(({ prompt: own, embed, states }) => own || embed !== undefined || states !== undefined, {
    path: ['prompt'],
    error: 'expected a prompt, got none',
  })
  .transform((entry) => ({ ...entry, prompt: entry.prompt ?? '' }));

const regionStrength = z
  .strictObject({ strength, ...place })
  .refine(onePlace.check, { error: onePlace.error });

/** Regions as text hold their prompts. */
const regionText = textUpTo(MAX_REGIONS * MAX_PROMPT_LENGTH);

const guide = z.strictObject({
  /** Folder of a T2I-Adapter (full_adapter) in diffusers' layout. */
  adapter: path,
  image: path,
  strength: strength.optional(),
  /** Other strengths inside shapes, or Mix-of-Show's `[y0, x0, y1, x1]-0.8|…`. */
  regions: z.union([regionText, listUpTo(regionStrength, MAX_REGIONS)]).optional(),
});

const control = z.strictObject({
  /** Folder of a ControlNet in diffusers' layout. */
  model: path,
  image: path,
  strength: strength.optional(),
});

export const sceneSchema = z.strictObject({
  /** Diffusers folder or single file. Default: what the fusion was made on, or the miniature that comes with edlora. */
  base: path.optional(),
  /** Folder with tokenizer and configs of a single-file base. */
  baseConfig: path.optional(),
  /** A fusion's folder, or a fused checkpoint folder. */
  fused: path.optional(),
  /** ED-LoRA or LoRA files with their words. */
  concepts: listUpTo(weights, MAX_FILES).optional(),
  loras: listUpTo(weights, MAX_FILES).optional(),
  /** LoRAs that act everywhere, as `<lora:file:0.8>` in the prompt. */
  promptLoras: listUpTo(weights, MAX_FILES).optional(),
  /** Concepts act in the whole picture, whichever region names them. Default false. */
  conceptsEverywhere: z.boolean({ error: 'expected true or false' }).optional(),
  /** Textual inversion files. */
  embeddings: listUpTo(path, MAX_FILES).optional(),
  prompt: prompt.optional(),
  negative: prompt.optional(),
  /** What makes states of embeddings: a file of `deproject train`. */
  deprojector: path.optional(),
  /** Folder of the CLIP model that embeds pictures. Default: `clip/` in the base. */
  clip: path.optional(),
  ...inPlace,
  /** Objects, or short forms `prompt @ left,top,right,bottom : negative`. */
  regions: listUpTo(z.union([regionText, region]), MAX_REGIONS).optional(),
  /** Mix-of-Show's `[prompt]-*-[negative]-*-[y0, x0, y1, x1]|…`; added to `regions`. */
  promptRewrite: regionText.optional(),
  /** Prompts for single cross-attention layers: `coarse`, `middle`, `fine`, `3`, `0-5`, `0,2,4`. */
  styleMix: z
    .record(name, prompt)
    .refine((mix) => Object.keys(mix).length <= MAX_LAYERS, {
      error: `expected at most ${MAX_LAYERS} entries`,
    })
    .optional(),
  isolate: share.optional(),
  width: whole(1, MAX_SIDE).optional(),
  height: whole(1, MAX_SIDE).optional(),
  /** What the model is told of the picture's origin, where it reads that: width and height, left and top. */
  originalSize: pixels('[width, height]').optional(),
  crop: pixels('[left, top]').optional(),
  steps: whole(1, MAX_STEPS).optional(),
  guidance: ranged(-MAX_GUIDANCE, MAX_GUIDANCE).optional(),
  guidanceRescale: share.optional(),
  sampler: name.optional(),
  /** `karras`, `leading`, `linspace`, `trailing`, or several of them joined by `+`. Default: the model's own. */
  schedule: name.optional(),
  prediction: z.enum(PREDICTION_TYPES).optional(),
  eta: share.optional(),
  clipSkip: whole(0, 64).optional(),
  seed: whole(-MAX_SEED, MAX_SEED).optional(),
  count: whole(1, MAX_COUNT).optional(),
  /** Pictures per pass of the UNet. */
  batch: whole(1, MAX_BATCH).optional(),
  init: z.strictObject({ image: path, denoise: share.optional() }).optional(),
  guides: listUpTo(guide, MAX_GUIDES).optional(),
  controls: listUpTo(control, MAX_GUIDES).optional(),
});

export type Scene = z.output<typeof sceneSchema>;
/** As scene files have it. */
export type WrittenRegion = z.output<typeof region>;
/** What stands in place of prompts, with short forms written out. */
export interface EmbeddedInPlace {
  readonly embed?: readonly EmbeddedPart[];
  readonly negativeEmbed?: readonly EmbeddedPart[];
}
/** A region with its tags written out. */
export type SceneRegion = Omit<WrittenRegion, 'loras' | keyof EmbeddedInPlace> &
  EmbeddedInPlace & { readonly loras?: readonly WeightFile[] };
export type ScenePlace = Pick<WrittenRegion, 'box' | 'polygon' | 'mask' | 'feather'>;
export type SceneGuide = z.output<typeof guide>;

/** A file of deltas and how much of it. */
export interface WeightFile {
  readonly path: string;
  readonly unetStrength: number;
  readonly textEncoderStrength: number;
}

/** A scene with its short forms written out and every path absolute. */
export type NormalScene = Omit<
  Scene,
  'concepts' | 'loras' | 'promptLoras' | 'regions' | keyof EmbeddedInPlace
> &
  EmbeddedInPlace & {
    readonly concepts: readonly WeightFile[];
    readonly loras: readonly WeightFile[];
    readonly promptLoras?: readonly WeightFile[];
    readonly regions: readonly SceneRegion[];
  };

/** How far an initial picture goes back to noise unless the scene says it. */
export const DEFAULT_DENOISE = 0.75;

/**
 * Write out a scene's short forms.
 * @param resolve from a path as written to an absolute one. Default: as seen from the working folder
 * @throws {UsageError} for a region's short form that cannot be read
 */
export function normalScene(
  scene: Scene,
  resolve: (file: string) => string = (file) => absolute(file),
): NormalScene {
  const placed = <T extends ScenePlace>(entry: T): T =>
    entry.mask === undefined ? entry : { ...entry, mask: resolve(entry.mask) };
  const { base, baseConfig, fused, embeddings, init, guides, controls } = scene;
  const concepts = (scene.concepts ?? []).map((entry) => weightFile(entry, resolve));
  const loras = (scene.loras ?? []).map((entry) => weightFile(entry, resolve));
  const loaded = [...(scene.concepts ?? []), ...(scene.loras ?? [])].map(writtenPath);
  const calledIn = (text: string): { prompt: string; loras: WeightFile[] } => {
    const { prompt: rest, tags } = takeLoraTags(text);
    const own = tags.map(({ name: called, ...strengths }) => {
      const known = loaded.findIndex((file) => [file, basename(file), parse(file).name].includes(called));
      return { path: known < 0 ? resolve(called) : [...concepts, ...loras][known]!.path, ...strengths };
    });
    return { prompt: rest, loras: own };
  };
  const inPlace = (own: InPlace): Pick<SceneRegion, keyof InPlace> => {
    const [positive, negative] = [own.prompt ?? '', own.negative ?? ''].map(takeEmbedTags);
    const parts = (listed: InPlace['embed'], tags: readonly EmbeddedPart[]): EmbeddedPart[] | undefined =>
      listed === undefined && tags.length === 0
        ? undefined
        : [...(listed ?? []).map(embeddedPart), ...tags].map((part) =>
            'image' in part ? { ...part, image: resolve(part.image) } : part,
          );
    return defined({
      prompt: own.prompt === undefined ? undefined : positive!.prompt,
      negative: own.negative === undefined ? undefined : negative!.prompt,
      embed: parts(own.embed, positive!.parts),
      negativeEmbed: parts(own.negativeEmbed, negative!.parts),
      states: own.states === undefined ? undefined : resolve(own.states),
      negativeStates: own.negativeStates === undefined ? undefined : resolve(own.negativeStates),
    }) as Pick<SceneRegion, keyof InPlace>;
  };
  const context = calledIn(scene.prompt ?? '');
  const own = inPlace(scene.prompt === undefined ? scene : { ...scene, prompt: context.prompt });
  const promptLoras = [
    ...(scene.promptLoras ?? []).map((entry) => weightFile(entry, resolve)),
    ...context.loras,
  ];
  const { embed: _, negativeEmbed: __, ...rest } = scene;
  return {
    ...rest,
    ...own,
    ...(scene.deprojector === undefined ? {} : { deprojector: resolve(scene.deprojector) }),
    ...(scene.clip === undefined ? {} : { clip: resolve(scene.clip) }),
    ...(base === undefined ? {} : { base: resolve(base) }),
    ...(baseConfig === undefined ? {} : { baseConfig: resolve(baseConfig) }),
    ...(fused === undefined ? {} : { fused: resolve(fused) }),
    ...(embeddings === undefined ? {} : { embeddings: embeddings.map(resolve) }),
    ...(init === undefined ? {} : { init: { ...init, image: resolve(init.image) } }),
    ...(controls === undefined
      ? {}
      : {
          controls: controls.map((entry) => ({
            ...entry,
            model: resolve(entry.model),
            image: resolve(entry.image),
          })),
        }),
    ...(guides === undefined
      ? {}
      : {
          guides: guides.map((entry) => ({
            ...entry,
            adapter: resolve(entry.adapter),
            image: resolve(entry.image),
            ...(Array.isArray(entry.regions) ? { regions: entry.regions.map(placed) } : {}),
          })),
        }),
    concepts,
    loras,
    promptLoras: promptLoras.length > 0 ? promptLoras : undefined,
    regions: (scene.regions ?? []).map((entry) => {
      const written: WrittenRegion =
        typeof entry === 'string' ? sceneRegion(parseRegion(entry), `region "${excerpt(entry)}"`) : entry;
      const called = calledIn(written.prompt);
      const own = [...(written.loras ?? []).map((file) => weightFile(file, resolve)), ...called.loras];
      const { embed: _, negativeEmbed: __, ...rest } = written;
      return placed({
        ...rest,
        ...inPlace({ ...written, prompt: called.prompt }),
        loras: own.length > 0 ? own : undefined,
      });
    }),
  };
}

/** What a scene or a region may have for a prompt. */
type InPlace = Partial<
  Pick<WrittenRegion, 'prompt' | 'negative' | 'embed' | 'negativeEmbed' | 'states' | 'negativeStates'>
>;

function embeddedPart(entry: NonNullable<InPlace['embed']>[number]): EmbeddedPart {
  if (typeof entry !== 'string') return { ...entry, weight: entry.weight ?? 1 };
  const { value, weight } = parseEmbedded(entry);
  return { text: value, weight };
}

const writtenPath = (entry: NonNullable<Scene['loras']>[number]): string =>
  typeof entry === 'string' ? entry : entry.path;

function weightFile(
  entry: NonNullable<Scene['concepts']>[number],
  resolve: (file: string) => string,
): WeightFile {
  if (typeof entry === 'string') return { path: resolve(entry), unetStrength: 1, textEncoderStrength: 1 };
  const both = entry.strength ?? 1;
  return {
    path: resolve(entry.path),
    unetStrength: entry.unetStrength ?? both,
    textEncoderStrength: entry.textEncoderStrength ?? both,
  };
}

/**
 * A region's short form as a scene file has it.
 * @throws {UsageError} where a number is outside its range, as in scene files
 */
export function sceneRegion(
  { prompt: own, negative, shape, feather, weight }: RegionSpec,
  where: string,
): Omit<WrittenRegion, 'loras' | keyof EmbeddedInPlace> {
  const {
    loras: _,
    embed: __,
    negativeEmbed: ___,
    ...plain
  } = checked(region, { prompt: own, negative, ...scenePlace(shape), feather, weight }, where);
  return plain;
}

/** The strength inside a place, as a scene file has it. @throws {UsageError} as `sceneRegion` */
export function sceneStrength(
  { shape, strength: inside }: StrengthSpec,
  where: string,
): z.output<typeof regionStrength> {
  return checked(regionStrength, { ...scenePlace(shape), strength: inside }, where);
}

function checked<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = safeParse(schema, value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new UsageError(`${where}: ${[...issue!.path.map(String), ''].join(': ')}${issue!.message}`);
}

/** A place's short form as a scene file has it. */
function scenePlace(shape: ShapeSpec): ScenePlace {
  switch (shape.kind) {
    case 'box':
      return { box: [...shape.box] };
    case 'polygon':
      return { polygon: shape.polygon.map(([x, y]) => [x, y]) };
    case 'mask':
      return { mask: shape.file };
  }
}
