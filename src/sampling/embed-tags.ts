/** Texts and pictures that are embedded, called where a prompt stands: `<embed:a cat><embed:maid:0.7><embed-image:photo.png:0.5>`. */
import { type EmbeddedPart, parseEmbedded } from '../deprojector/embed.ts';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';

const TAG = /<embed(-image)?:([^<>]*)>/gi;

/**
 * Take the tags out of a prompt.
 * @throws {UsageError} for a tag without a text, and for words beside tags, which would not be read
 */
export function takeEmbedTags(prompt: string): {
  readonly prompt: string;
  readonly parts: readonly EmbeddedPart[];
} {
  const parts: EmbeddedPart[] = [];
  const rest = prompt.replace(TAG, (tag, image: string | undefined, body: string) => {
    const { value, weight } = parseEmbedded(body);
    if (value.trim() === '')
      throw new UsageError(`${excerpt(tag)}: expected <embed:a text:0.7>, got no text`);
    parts.push(image === undefined ? { text: value.trim(), weight } : { image: value.trim(), weight });
    return '';
  });
  if (parts.length === 0) return { prompt, parts };
  if (rest.trim() !== '') {
    throw new UsageError(
      `prompt "${excerpt(prompt)}": expected tags alone, got words beside them; embed the words too`,
    );
  }
  return { prompt: '', parts };
}
