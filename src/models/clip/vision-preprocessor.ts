/**
 * Pictures to the numbers CLIP's vision tower expects, as transformers' CLIPImageProcessor does over Pillow: bicubic
 * resize of the shorter side, centre crop, scale to [0, 1], normalise per channel.
 */
import { z } from 'zod';
import type { Picture } from '../../formats/picture.ts';
import { resizeBicubic } from './vision-resize.ts';

export interface ClipPreprocessor {
  /** Shorter side after resizing, or exact height and width; null: not resized. */
  readonly resize: number | { readonly height: number; readonly width: number } | null;
  /** Height and width cut from the centre; null: not cut. */
  readonly crop: { readonly height: number; readonly width: number } | null;
  /** Pixel values are multiplied by this; 1 / 255. */
  readonly rescale: number;
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
}

/** As many pixels as a side of the largest picture that is drawn here has. */
const length = z.number().int().positive().max(4096);
const triple = z.tuple([z.number(), z.number(), z.number()]);
const box = z.union([length, z.object({ height: length, width: length })]);

/** CLIP's own, of OpenAI's models. */
const MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
const STD = [0.26862954, 0.26130258, 0.27577711] as const;

/** A preprocessor_config.json. Old files hold plain numbers for sizes. */
export const clipPreprocessorSchema = z
  .object({
    do_resize: z.boolean().default(true),
    size: z
      .union([z.object({ shortest_edge: length }).transform((size) => size.shortest_edge), box])
      .default(224),
    resample: z.literal(3, 'expected 3 (bicubic), the filter CLIP was trained with').default(3),
    do_center_crop: z.boolean().default(true),
    crop_size: box.default(224),
    do_rescale: z.boolean().default(true),
    rescale_factor: z
      .number()
      .positive()
      .default(1 / 255),
    do_normalize: z.boolean().default(true),
    image_mean: triple.default([...MEAN]),
    image_std: triple
      .refine((std) => std.every((value) => value > 0), 'expected positive numbers')
      .default([...STD]),
  })
  .transform(
    (json): ClipPreprocessor => ({
      resize: json.do_resize ? json.size : null,
      crop: json.do_center_crop ? square(json.crop_size) : null,
      rescale: json.do_rescale ? json.rescale_factor : 1,
      mean: json.do_normalize ? json.image_mean : [0, 0, 0],
      std: json.do_normalize ? json.image_std : [1, 1, 1],
    }),
  );

/** What OpenAI's models use, at another size. */
export function defaultPreprocessor(imageSize: number): ClipPreprocessor {
  return { resize: imageSize, crop: square(imageSize), rescale: 1 / 255, mean: MEAN, std: STD };
}

function square(size: number | { height: number; width: number }): { height: number; width: number } {
  return typeof size === 'number' ? { height: size, width: size } : size;
}

/** Resize and crop alone: what the network will see, as a picture. Outside the picture is black. */
export function fitPicture(picture: Picture, { resize, crop }: ClipPreprocessor): Picture {
  const resized = resize === null ? picture : resizeBicubic(picture, targetSize(picture, resize));
  return crop === null ? resized : cropCentre(resized, crop);
}

/** The long side is cut to a whole number of pixels, as Python's `int` does. */
function targetSize(
  { width, height }: Picture,
  resize: NonNullable<ClipPreprocessor['resize']>,
): { width: number; height: number } {
  if (typeof resize !== 'number') return resize;
  const long = Math.trunc((resize * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? { width: resize, height: long } : { width: long, height: resize };
}

function cropCentre(picture: Picture, { width, height }: { width: number; height: number }): Picture {
  if (picture.width === width && picture.height === height) return picture;
  const top = Math.floor((picture.height - height) / 2);
  const left = Math.floor((picture.width - width) / 2);
  const data = new Uint8Array(width * height * 3);
  const [from, to] = [Math.max(0, left), Math.min(picture.width, left + width)];
  for (let y = Math.max(0, -top); y < height && y + top < picture.height; y++) {
    const row = (y + top) * picture.width;
    data.set(picture.data.subarray((row + from) * 3, (row + to) * 3), (y * width + from - left) * 3);
  }
  return { width, height, data };
}

/**
 * One picture as the network's input, [3, H, W] written to `out` from `offset`.
 * @returns the elements written
 */
export function writePixelValues(
  picture: Picture,
  preprocessor: ClipPreprocessor,
  out: Float32Array,
  offset = 0,
): number {
  const { data, width, height } = fitPicture(picture, preprocessor);
  const plane = width * height;
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(preprocessor.mean[channel]!);
    const std = Math.fround(preprocessor.std[channel]!);
    const table = Float32Array.from(
      { length: 256 },
      (_, value) => Math.fround(Math.fround(value * preprocessor.rescale) - mean) / std,
    );
    for (let i = 0; i < plane; i++) out[offset + channel * plane + i] = table[data[i * 3 + channel]!]!;
  }
  return 3 * plane;
}
