/**
 * Pictures as 8-bit RGB, and their way from files: PNG, JPEG and WebP by their content, decoded by libvips. Its other
 * readers (SVG, TIFF, GIF …) see no file. PNG is written (png.ts).
 */

import type { Sharp } from 'sharp';
import { EdloraError, FormatError } from '../errors.ts';
import { latin1Text } from '../io/bytes.ts';
import { locateFile, readFileRange, type SourceFile } from '../io/file-range.ts';

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

/**
 * Pixels that are decoded: 2^24 (4096 × 4096) of any file and 256 more for each of its bytes, but never more than 2^27
 * (400 MB of RGB). Flat pictures have up to some 500 a byte, photographs less than 20.
 */
const FREE_PIXELS = 2 ** 24;
const PIXELS_PER_BYTE = 256;
const MAX_PIXELS = 2 ** 27;

/** The decoder is loaded with the first picture: most commands see none. */
const decoder = async () => (await import('sharp')).default;

export interface ReadPictureOptions {
  /** Resize to this size; default: as stored. Bilinear. */
  readonly width?: number;
  readonly height?: number;
}

/**
 * Work on a picture's decoder, within the limits above.
 * @throws {FormatError} if it is no PNG, JPEG or WebP picture, has too many pixels for its size, or cannot be decoded
 */
export async function decodePicture<T>(file: string, work: (image: Sharp) => Promise<T>): Promise<T> {
  const source = locateFile(file);
  checkKind(file, source);
  const allowed = Math.min(MAX_PIXELS, FREE_PIXELS + PIXELS_PER_BYTE * source.sizeBytes);
  const sharp = await decoder();
  try {
    // libvips compares with the header, before it decodes.
    return await work(sharp(source.path, { limitInputPixels: allowed, failOn: 'error' }).rotate());
  } catch (cause) {
    if (cause instanceof EdloraError) throw cause;
    const reason = (cause as Error).message;
    if (/pixel limit/.test(reason)) throw await tooLarge(file, source, allowed, cause);
    throw new FormatError(file, `expected a picture, got one that cannot be decoded: ${reason}`, { cause });
  }
}

async function tooLarge(file: string, source: SourceFile, allowed: number, cause: unknown): Promise<Error> {
  const sharp = await decoder();
  const { width, height } = await sharp(source.path, { limitInputPixels: false }).metadata();
  return new FormatError(
    file,
    `expected a picture of at most ${allowed} pixels in ${source.sizeBytes} bytes, got ${width} × ${height} = ${width * height}`,
    { cause },
  );
}

/** @throws {FormatError} if the first bytes are not those of a PNG, JPEG or WebP picture */
function checkKind(file: string, { path, sizeBytes }: SourceFile): void {
  const head = latin1Text(readFileRange(path, 0, Math.min(sizeBytes, 12)));
  const known =
    head.startsWith('\x89PNG\r\n\x1a\n') ||
    head.startsWith('\xff\xd8\xff') ||
    (head.startsWith('RIFF') && head.slice(8) === 'WEBP');
  if (known) return;
  const kind = sizeBytes === 0 ? 'an empty file' : 'something else';
  throw new FormatError(file, `expected a picture (PNG, JPEG or WebP), got ${kind}; convert it first`);
}

/** The same bytes, not copied. */
function bytesOf(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function resized(image: Sharp, { width, height }: ReadPictureOptions): Sharp {
  if (width === undefined || height === undefined) return image;
  return image.resize(width, height, { fit: 'fill', kernel: 'linear' });
}

/** Read a picture; transparency falls on black. @throws {FormatError} if it cannot be decoded */
export function readPicture(file: string, options: ReadPictureOptions = {}): Promise<Picture> {
  return decodePicture(file, async (image) => {
    const { data, info } = await resized(
      image.flatten({ background: 'black' }).toColourspace('srgb'),
      options,
    )
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: bytesOf(data) };
  });
}

/** Read a picture as brightness. @throws {FormatError} if it cannot be decoded */
export function readGrayPicture(file: string, options: ReadPictureOptions = {}): Promise<GrayPicture> {
  return decodePicture(file, async (image) => {
    const { data, info } = await resized(image, options)
      .flatten({ background: 'black' })
      .toColourspace('b-w')
      .extractChannel(0)
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: bytesOf(data) };
  });
}

/** The alpha channel of a picture; null if it has none. @throws {FormatError} if it cannot be decoded */
export function readAlphaChannel(file: string): Promise<GrayPicture | null> {
  return decodePicture(file, async (image) => {
    const { hasAlpha } = await image.metadata();
    if (!hasAlpha) return null;
    const { data, info } = await image.extractChannel('alpha').raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: bytesOf(data) };
  });
}

/** Look at all of a picture, at a small size. @throws {FormatError} if it ends early, or cannot be decoded */
export function checkDecodes(file: string): Promise<void> {
  return decodePicture(file, async (image) => {
    await image.resize(8, 8, { fit: 'fill' }).raw().toBuffer();
  });
}

/** Width and height of a picture as it is read, upright, from its header. @throws {FormatError} if it cannot be read */
export function pictureSize(file: string): Promise<{ width: number; height: number }> {
  return decodePicture(file, async (image) => {
    // Metadata are those of the stored picture, which a camera may have turned.
    const { width, height } = (await image.metadata()).autoOrient;
    return { width, height };
  });
}
