/** Where the tokenizer of a base's text encoder lies. */
import { exists } from '../io/file-info.ts';
import * as path from '../io/platform/paths.ts';
import { type ClipTokenizer, loadTokenizer } from './clip/tokenizer.ts';
import type { TextEncoderLayout } from './families/family.ts';

/**
 * The tokenizer of a diffusers folder.
 * @throws {FormatError} if it is missing or damaged
 */
export function tokenizerInFolder(folder: string, { tokenizer }: TextEncoderLayout): Promise<ClipTokenizer> {
  return loadTokenizer(path.join(folder, tokenizer));
}

/**
 * The tokenizer for a single file, which holds none: its own folder inside of `folder`, or the one that is there. CLIP's
 * vocabulary is one for all; of another model's tokenizer only the padding is wrong.
 * @throws {FormatError} if there is none, or it is damaged
 */
export async function tokenizerBeside(
  folder: string,
  { id, tokenizer, padding }: TextEncoderLayout,
): Promise<ClipTokenizer> {
  const own = path.join(folder, tokenizer);
  const isOwn = exists(path.join(folder, id)) && exists(own);
  const found = await loadTokenizer(exists(own) ? own : folder);
  return isOwn || padding === undefined ? found : found.withPadding(padding);
}
