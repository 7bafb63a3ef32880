/** Small pictures inside a page. */
import path from 'node:path';
import { dataUri, type Html, html } from '../charts/html.ts';
import { FormatError } from '../errors.ts';
import { decodePicture } from '../formats/picture.ts';
import { readWholeFile } from '../io/read-small-file.ts';

/** Pictures up to this side are embedded as they are, larger ones as WebP of this side. */
const SIDE = 160;

/** A picture of 4096 × 4096 pixels that no method could make smaller. */
const MAX_BYTES = 1 << 26;

/**
 * An `<img>` with the picture's bytes inside.
 * @param file relative to `folder`; must stay inside it
 * @throws {FormatError} if it leaves the folder or cannot be decoded
 */
export async function thumbnail(folder: string, file: string, alt: string): Promise<Html> {
  const root = path.resolve(folder);
  const full = path.resolve(root, file);
  if (!full.startsWith(root + path.sep)) throw new FormatError(full, `expected a picture inside ${root}`);
  const { width, height, format } = await decodePicture(full, (image) => image.metadata());
  const small = Math.max(width, height) <= SIDE && format === 'png';
  const shown = small
    ? await readWholeFile(full, MAX_BYTES, 'a picture')
    : await decodePicture(full, (image) =>
        image.resize(SIDE, SIDE, { fit: 'inside' }).webp({ quality: 80 }).toBuffer(),
      );
  return html`<img src="${dataUri(shown, small ? 'image/png' : 'image/webp')}" alt="${alt}" loading="lazy">`;
}
