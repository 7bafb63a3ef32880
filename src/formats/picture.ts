/** Pictures as 8-bit RGB, and their way from files. Anything that libvips decodes is read; PNG is written (png.ts). */
import sharp, { type Sharp } from 'sharp';
import { FormatError } from '../errors.ts';

/** 8 bits per channel, row by row. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  /** [H, W, 3] */
  readonly data: Uint8Array;
}

/** One channel, e.g. a mask. */
export interface GrayPicture {
  readonly width: number;
  readonly height: number;
  /** [H, W], 0 … 255 */
  readonly data: Uint8Array;
}

/** A picture of 16 384 × 16 384 is the most that is decoded. */
const MAX_PIXELS = 2 ** 28;

export interface ReadPictureOptions {
  /** Resize to this size; default: as stored. Bilinear. */
  readonly width?: number;
  readonly height?: number;
}

async function decode<T>(file: string, work: (image: Sharp) => Promise<T>): Promise<T> {
  try {
    return await work(sharp(file, { limitInputPixels: MAX_PIXELS, failOn: 'error' }).rotate());
  } catch (cause) {
    throw new FormatError(file, `expected a picture, ${(cause as Error).message}`, { cause });
  }
}

function resized(image: Sharp, { width, height }: ReadPictureOptions): Sharp {
  if (width === undefined || height === undefined) return image;
  return image.resize(width, height, { fit: 'fill', kernel: 'linear' });
}

/** Read a picture; transparency falls on black. @throws {FormatError} if it cannot be decoded */
export function readPicture(file: string, options: ReadPictureOptions = {}): Promise<Picture> {
  return decode(file, async (image) => {
    const { data, info } = await resized(
      image.flatten({ background: 'black' }).toColourspace('srgb'),
      options,
    )
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8Array(data) };
  });
}

/** Read a picture as brightness. @throws {FormatError} if it cannot be decoded */
export function readGrayPicture(file: string, options: ReadPictureOptions = {}): Promise<GrayPicture> {
  return decode(file, async (image) => {
    const { data, info } = await resized(image, options)
      .flatten({ background: 'black' })
      .toColourspace('b-w')
      .extractChannel(0)
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8Array(data) };
  });
}

/** The alpha channel of a picture; null if it has none. @throws {FormatError} if it cannot be decoded */
export function readAlphaChannel(file: string): Promise<GrayPicture | null> {
  return decode(file, async (image) => {
    const { hasAlpha } = await image.metadata();
    if (!hasAlpha) return null;
    const { data, info } = await image.extractChannel('alpha').raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8Array(data) };
  });
}

/** Width and height of a picture, from its header. @throws {FormatError} if it cannot be read */
export function pictureSize(file: string): Promise<{ width: number; height: number }> {
  return decode(file, async (image) => {
    const { width, height } = await image.metadata();
    return { width, height };
  });
}
