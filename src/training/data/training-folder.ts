/**
 * Pictures with their captions and masks, as people keep them: `NN.png` with `NN.txt` and `NN_mask.png` beside it, or
 * captions in one `.json` or `.jsonl` file. Everything that is missing or broken is named before training starts.
 */
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { EdloraError, FormatError, UsageError } from '../../errors.ts';
import type { GrayPicture } from '../../formats/picture.ts';
import { checkDecodes, pictureSize, readAlphaChannel, readGrayPicture } from '../../formats/picture.ts';
import { parseJson } from '../../formats/strict-json.ts';
import { infoOf } from '../../io/file-info.ts';
import { readTextFile } from '../../io/read-small-file.ts';

const PICTURE = /\.(png|jpe?g|jfif|webp)$/i;
/** Pictures in formats that are not read: they are named, not passed over. */
const OTHER_PICTURE = /\.(bmp|gif|tiff?|avif|hei[cf]|jxl|jp2|psd)$/i;
const MASK = /_mask\.[a-z]+$/i;
const MAX_CAPTION_BYTES = 1 << 20;
/** Masks are kept until the pictures are encoded, a byte a pixel. */
const MAX_MASK_PIXELS = 2 ** 30;
/** What a person reads at once. */
const MAX_PROBLEMS = 20;

export interface TrainingPicture {
  readonly file: string;
  readonly width: number;
  readonly height: number;
  /** As written, `<TOK>` not yet replaced. */
  readonly caption: string;
  /** 255 where the loss looks; null: everywhere. Of the picture's size. */
  readonly mask: GrayPicture | null;
}

export interface FolderOptions {
  readonly captions: 'auto' | 'file-name' | 'prompt';
  /** For pictures without a caption; empty: there must be one. */
  readonly prompt: string;
  /** Where caption files lie; empty: beside the pictures. */
  readonly captionFolder: string;
  /** `auto`, `none`, or a folder of masks under the pictures' names. */
  readonly masks: string;
}

/**
 * Read a folder. Files are taken in the order of their names.
 * @throws {UsageError} if the folder is missing or has no pictures
 * @throws {FormatError} naming every picture that is broken, lacks its caption, or has a mask of another size
 */
export async function readTrainingFolder(folder: string, options: FolderOptions): Promise<TrainingPicture[]> {
  if (!infoOf(folder)?.isDirectory()) {
    throw new UsageError(`${folder}: expected a folder with pictures; check \`data\``);
  }
  const all = readdirSync(folder)
    .filter((name) => !MASK.test(name))
    .sort();
  const names = all.filter((name) => PICTURE.test(name));
  const others = all.filter((name) => OTHER_PICTURE.test(name));
  if (names.length + others.length === 0) {
    throw new UsageError(`${folder}: expected pictures (.png, .jpg, .webp), found none`);
  }
  if (options.captionFolder !== '' && !infoOf(options.captionFolder)?.isDirectory()) {
    throw new UsageError(`${options.captionFolder}: expected a folder with captions`);
  }
  const listed =
    options.captions === 'auto'
      ? await listedCaptions(options.captionFolder || folder)
      : new Map<string, string>();
  const pictures: TrainingPicture[] = [];
  const problems = others.map(
    (name) => `${path.join(folder, name)}: expected PNG, JPEG or WebP; convert it, or move it away`,
  );
  let maskPixels = 0;
  for (const name of names) {
    const file = path.join(folder, name);
    try {
      const { width, height } = await pictureSize(file);
      await checkDecodes(file);
      const caption = (await captionOf(file, listed, options)) ?? options.prompt;
      if (caption === '') throw new FormatError(file, 'no caption; expected one in a .txt file, or `prompt`');
      const mask = await maskOf(file, width, height, options.masks);
      maskPixels += mask?.data.length ?? 0;
      pictures.push({ file, width, height, caption, mask });
    } catch (error) {
      if (!(error instanceof EdloraError)) throw error;
      problems.push(error.message);
    }
    if (maskPixels > MAX_MASK_PIXELS) {
      throw new FormatError(
        folder,
        `expected masks of at most ${MAX_MASK_PIXELS} pixels together, got ${maskPixels} by ${name}; use smaller pictures`,
      );
    }
  }
  if (problems.length > 0) {
    const shown = problems.slice(0, MAX_PROBLEMS);
    const more = problems.length > shown.length ? `\n  and ${problems.length - shown.length} more` : '';
    throw new FormatError(
      folder,
      `${problems.length} of ${names.length + others.length} pictures cannot be used:\n  ${shown.join('\n  ')}${more}`,
    );
  }
  return pictures;
}

async function captionOf(
  file: string,
  listed: ReadonlyMap<string, string>,
  { captions, captionFolder, prompt }: FolderOptions,
): Promise<string | null> {
  const { dir, name, base } = path.parse(file);
  if (captions === 'prompt') return prompt;
  // cat_on_sofa-(2).png → cat on sofa
  if (captions === 'file-name')
    return (
      name
        .replace(/[-_ ]*\(?\d*\)?$/, '')
        .replace(/[_-]+/g, ' ')
        .trim() || null
    );
  const text = path.join(captionFolder || dir, `${name}.txt`);
  if (existsSync(text)) return oneCaption(text, await readText(text));
  return listed.get(base) ?? listed.get(name) ?? null;
}

/** @throws {FormatError} for several: other programs train on the first, on all as one, or on any of them */
function oneCaption(file: string, text: string): string | null {
  const lines = text.split(/\r\n?|\n/).flatMap((line) => line.trim() || []);
  if (lines.length > 1) {
    throw new FormatError(file, `expected one caption, got ${lines.length} lines; make one line of them`);
  }
  return lines[0] ?? null;
}

/** Captions of `.json` and `.jsonl` files in the folder, by file name or stem. */
async function listedCaptions(folder: string): Promise<Map<string, string>> {
  const captions = new Map<string, string>();
  for (const name of readdirSync(folder).sort()) {
    const file = path.join(folder, name);
    const lines = name.endsWith('.jsonl');
    if (!lines && !name.endsWith('.json')) continue;
    const text = await readText(file);
    const value = lines
      ? text
          .split('\n')
          .flatMap((line, i) => (line.trim() === '' ? [] : [parseJson(line, `${file}:${i + 1}`)]))
      : parseJson(text, file);
    for (const [key, caption] of captionPairs(file, value, path.parse(name).name)) captions.set(key, caption);
  }
  return captions;
}

/** `{"01.png": "…"}`, `[{"file_name": "01.png", "text": "…"}]`, or the caption of one picture, `{"caption": "…"}`. */
function captionPairs(file: string, value: unknown, stem: string): [string, string][] {
  const captionIn = (entry: object): string | null => {
    const found = Object.entries(entry).find(([key]) => /^(text|caption|prompt)$/.test(key))?.[1];
    return typeof found === 'string' ? found.trim() : null;
  };
  if (Array.isArray(value)) {
    return value.map((entry: unknown, i) => {
      const name =
        entry !== null && typeof entry === 'object' && 'file_name' in entry ? entry.file_name : null;
      const caption = entry !== null && typeof entry === 'object' ? captionIn(entry) : null;
      if (typeof name !== 'string' || caption === null) {
        throw new FormatError(file, `entry ${i}: expected {"file_name": …, "text": …}`);
      }
      return [path.basename(name), caption];
    });
  }
  if (value === null || typeof value !== 'object')
    throw new FormatError(file, 'expected captions by file name');
  const own = captionIn(value);
  if (own !== null) return [[stem, own]];
  return Object.entries(value).map(([name, caption]) => {
    if (typeof caption !== 'string')
      throw new FormatError(file, `${name}: expected a caption, got ${typeof caption}`);
    return [path.basename(name), caption.trim()];
  });
}

function readText(file: string): Promise<string> {
  return readTextFile(file, MAX_CAPTION_BYTES, 'captions');
}

async function maskOf(
  file: string,
  width: number,
  height: number,
  masks: string,
): Promise<GrayPicture | null> {
  if (masks === 'none') return null;
  const { dir, name } = path.parse(file);
  const folder = masks === 'auto' ? dir : masks;
  const candidates = masks === 'auto' ? [`${name}_mask`] : [name, `${name}_mask`];
  const found = candidates
    .flatMap((stem) =>
      ['.png', '.jpg', '.jpeg', '.jfif', '.webp'].map((end) => path.join(folder, stem + end)),
    )
    .find(existsSync);
  if (found === undefined && masks !== 'auto') {
    throw new FormatError(file, `no mask in ${masks}; expected ${name}.png`);
  }
  // Its size first, from the header: a mask of another size is not worth decoding.
  const size = found === undefined ? { width, height } : await pictureSize(found);
  if (size.width !== width || size.height !== height) {
    throw new FormatError(
      found ?? file,
      `mask of ${size.width} × ${size.height}; expected the picture's ${width} × ${height}`,
    );
  }
  const mask = found === undefined ? await readAlphaChannel(file) : await readGrayPicture(found);
  if (mask === null) return null;
  if (!mask.data.some((value) => value > 127)) throw new FormatError(found ?? file, 'mask is empty');
  return mask;
}
