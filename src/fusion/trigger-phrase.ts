/** What prompts call a LoRA that has no words of its own: the phrase that its header says, or that most of its captions had. */
import path from 'node:path';
import type { Concept } from '../concepts/concept.ts';

export interface NamedBy {
  readonly name: string;
  /** Where it comes from, for people. */
  readonly source: string;
}

/** Its trigger phrase, else the most frequent tag of its training captions, else its file's name. */
export function triggerPhrase({ metadata, path: file }: Pick<Concept, 'metadata' | 'path'>): NamedBy {
  const phrase = metadata.get('modelspec.trigger_phrase')?.trim() ?? '';
  if (phrase !== '') return { name: phrase, source: 'modelspec.trigger_phrase of its header' };
  const tag = mostFrequentTag(metadata.get('ss_tag_frequency'));
  if (tag !== null) return { name: tag, source: 'the most frequent tag in ss_tag_frequency of its header' };
  return { name: path.parse(file).name.replace(/[_-]+/g, ' ').trim(), source: "its file's name" };
}

/**
 * sd-scripts writes how often each tag stood in the captions of each folder: `{"10_dog": {"sks dog": 20, "grass": 7}}`. Of several
 * tags that are equally frequent the first counts: captions begin with the trigger.
 */
function mostFrequentTag(text: string | undefined): string | null {
  let folders: unknown;
  try {
    folders = JSON.parse(text ?? 'null');
  } catch {
    // A header may be cut off; it is one source of several.
    return null;
  }
  const counts = new Map<string, number>();
  for (const folder of Object.values(folders ?? {})) {
    if (typeof folder !== 'object' || folder === null) continue;
    for (const [tag, count] of Object.entries(folder as Record<string, unknown>)) {
      const name = tag.trim();
      if (name !== '' && typeof count === 'number' && count > 0) {
        counts.set(name, (counts.get(name) ?? 0) + count);
      }
    }
  }
  let best: string | null = null;
  for (const [tag, count] of counts) if (best === null || count > counts.get(best)!) best = tag;
  return best;
}
