/** The pictures of a folder, e.g. those a concept was trained on. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { FormatError } from '../errors.ts';
import { type Picture, pictureSize, readPicture } from '../formats/picture.ts';

/** Of all pictures of a folder, which are kept at three bytes each: 89 photographs of 12 megapixels. */
const MAX_PIXELS = 2 ** 30;

/** A picture with the name reports show it by. */
export interface NamedPicture extends Picture {
  readonly name: string;
}

/**
 * All PNG, JPEG and WebP pictures of a folder, by name. Files that end in `_mask` (training masks) do not show the
 * subject and are left out.
 * @throws {FormatError} if the folder is missing, holds no pictures, or one cannot be decoded
 */
export async function readPictureFolder(folder: string): Promise<NamedPicture[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (cause) {
    throw new FormatError(folder, 'expected a folder of pictures', { cause });
  }
  const files = names
    .filter((name) => /\.(png|jpe?g|jfif|webp)$/i.test(name) && !/_mask\.\w+$/i.test(name))
    .sort();
  if (files.length === 0) throw new FormatError(folder, 'expected PNG, JPEG or WebP pictures, got none');
  const pictures: NamedPicture[] = [];
  let pixels = 0;
  for (const name of files) {
    const file = path.join(folder, name);
    const { width, height } = await pictureSize(file);
    pixels += width * height;
    if (pixels > MAX_PIXELS) {
      throw new FormatError(
        folder,
        `expected pictures of at most ${MAX_PIXELS} pixels together, got ${pixels} by ${name}; take fewer or smaller ones`,
      );
    }
    pictures.push({ name, ...(await readPicture(file)) });
  }
  return pictures;
}
