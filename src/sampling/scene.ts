/**
 * A scene: everything that a picture is drawn from, as a file or a command line says it. Paths, names and numbers
 * only; nothing is opened here.
 */
import { z } from 'zod';
import { parseRegion, type RegionSpec, type ShapeSpec } from './region-text.ts';

const text = z.string({ error: 'expected text' });
const path = text.min(1, { error: 'expected a path, got none' });
const number = z.number({ error: 'expected a number' });
const share = number.min(0, { error: 'expected 0 … 1' }).max(1, { error: 'expected 0 … 1' });
const count = z
  .int({ error: 'expected a whole number' })
  .min(1, { error: 'expected 1 or more' })
  .max(2 ** 31, { error: 'expected a smaller number' });

const strengths = {
  /** Of both networks. Default 1. */
  strength: number.optional(),
  unetStrength: number.optional(),
  textEncoderStrength: number.optional(),
};
const weights = z.union([path, z.strictObject({ path, ...strengths })]);

/** Exactly one of them says where. Numbers are fractions of the picture if none is above 1, else pixels. */
const place = {
  /** left, top, right, bottom */
  box: z.tuple([number, number, number, number], { error: 'expected [left, top, right, bottom]' }).optional(),
  /** Corners x, y. */
  polygon: z
    .array(z.tuple([number, number], { error: 'expected [x, y]' }))
    .min(3)
    .optional(),
  /** A picture: white belongs to the region. */
  mask: path.optional(),
  /** Pixels over which edges fade. Default 0. */
  feather: number.min(0, { error: 'expected 0 or more' }).max(4096).optional(),
};
const onePlace = {
  check: (entry: { box?: unknown; polygon?: unknown; mask?: unknown }): boolean =>
    [entry.box, entry.polygon, entry.mask].filter((value) => value !== undefined).length === 1,
  error: 'expected exactly one of box, polygon and mask',
};

const region = z
  .strictObject({
    prompt: text.min(1, { error: 'expected a prompt, got none' }),
    negative: text.optional(),
    ...place,
    /** Its part where regions overlap. Default 1. */
    weight: number.positive({ error: 'expected more than 0' }).optional(),
  })
  .refine(onePlace.check, { error: onePlace.error });

const regionStrength = z
  .strictObject({ strength: number, ...place })
  .refine(onePlace.check, { error: onePlace.error });

const guide = z.strictObject({
  /** Folder of a T2I-Adapter (full_adapter) in diffusers' layout. */
  adapter: path,
  image: path,
  strength: number.optional(),
  /** Other strengths inside shapes, or Mix-of-Show's `[y0, x0, y1, x1]-0.8|…`. */
  regions: z.union([text, z.array(regionStrength)]).optional(),
});

const control = z.strictObject({
  /** Folder of a ControlNet in diffusers' layout. */
  model: path,
  image: path,
  strength: number.optional(),
});

export const sceneSchema = z.strictObject({
  /** Diffusers folder or single file. Default: what the fusion was made on, or the miniature that comes with edlora. */
  base: path.optional(),
  /** Folder with tokenizer and configs of a single-file base. */
  baseConfig: path.optional(),
  /** A fusion's folder, or a fused checkpoint folder. */
  fused: path.optional(),
  /** ED-LoRA or LoRA files with their words. */
  concepts: z.array(weights).optional(),
  loras: z.array(weights).optional(),
  /** Textual inversion files. */
  embeddings: z.array(path).optional(),
  prompt: text.optional(),
  negative: text.optional(),
  /** Objects, or short forms `prompt @ left,top,right,bottom : negative`. */
  regions: z.array(z.union([text, region])).optional(),
  /** Mix-of-Show's `[prompt]-*-[negative]-*-[y0, x0, y1, x1]|…`; added to `regions`. */
  promptRewrite: text.optional(),
  /** Prompts for single cross-attention layers: `coarse`, `middle`, `fine`, `3`, `0-5`, `0,2,4`. */
  styleMix: z.record(text, text).optional(),
  isolate: share.optional(),
  width: count.optional(),
  height: count.optional(),
  steps: count.optional(),
  guidance: number.optional(),
  guidanceRescale: share.optional(),
  sampler: text.optional(),
  /** `karras`, `leading`, `linspace`, `trailing`, or several of them joined by `+`. Default: the model's own. */
  schedule: text.optional(),
  prediction: z.enum(['epsilon', 'v_prediction', 'sample']).optional(),
  eta: share.optional(),
  clipSkip: z.int({ error: 'expected a whole number' }).min(0).max(64).optional(),
  seed: z.int({ error: 'expected a whole number' }).optional(),
  count: count.optional(),
  /** Pictures per pass of the UNet. */
  batch: count.optional(),
  init: z.strictObject({ image: path, denoise: share.optional() }).optional(),
  guides: z.array(guide).optional(),
  controls: z.array(control).optional(),
});

export type Scene = z.output<typeof sceneSchema>;
export type SceneRegion = z.output<typeof region>;
export type ScenePlace = Pick<SceneRegion, 'box' | 'polygon' | 'mask' | 'feather'>;
export type SceneGuide = z.output<typeof guide>;

/** A file of deltas and how much of it. */
export interface WeightFile {
  readonly path: string;
  readonly unetStrength: number;
  readonly textEncoderStrength: number;
}

/** A scene with its short forms written out and every path absolute. */
export type NormalScene = Omit<Scene, 'concepts' | 'loras' | 'regions'> & {
  readonly concepts: readonly WeightFile[];
  readonly loras: readonly WeightFile[];
  readonly regions: readonly SceneRegion[];
};

/** How far an initial picture goes back to noise unless the scene says it. */
export const DEFAULT_DENOISE = 0.75;

/**
 * Write out a scene's short forms.
 * @param resolve from a path as written to an absolute one
 * @throws {UsageError} for a region's short form that cannot be read
 */
export function normalScene(scene: Scene, resolve: (file: string) => string): NormalScene {
  const placed = <T extends ScenePlace>(entry: T): T =>
    entry.mask === undefined ? entry : { ...entry, mask: resolve(entry.mask) };
  const { base, baseConfig, fused, embeddings, init, guides, controls } = scene;
  return {
    ...scene,
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
    concepts: (scene.concepts ?? []).map((entry) => weightFile(entry, resolve)),
    loras: (scene.loras ?? []).map((entry) => weightFile(entry, resolve)),
    regions: (scene.regions ?? []).map((entry) =>
      placed(typeof entry === 'string' ? sceneRegion(parseRegion(entry)) : entry),
    ),
  };
}

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

/** A region's short form as a scene file has it. */
export function sceneRegion({ prompt, negative, shape, feather, weight }: RegionSpec): SceneRegion {
  return { prompt, negative, ...scenePlace(shape), feather, weight };
}

/** A place's short form as a scene file has it. */
export function scenePlace(shape: ShapeSpec): ScenePlace {
  switch (shape.kind) {
    case 'box':
      return { box: [...shape.box] };
    case 'polygon':
      return { polygon: shape.polygon.map(([x, y]) => [x, y]) };
    case 'mask':
      return { mask: shape.file };
  }
}
