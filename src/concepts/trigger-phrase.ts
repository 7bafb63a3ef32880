/**
 * What prompts call a LoRA that has no words of its own: the phrase that its header says, or that most of its captions had. A header is
 * anybody's text: what is too long for a name, or would steer a terminal, is passed over.
 */
import * as path from '../io/platform/paths.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { visible } from '../visible.ts';
import type { Concept } from './concept.ts';

export interface FoundName {
  readonly name: string;
  /** Where it comes from, for people. */
  readonly source: string;
}

/** Characters of a name: prompts stand around it, and 75 tokens are all that is read. */
const LONGEST = 100;

/** Its trigger phrase, else the most frequent phrase of its training captions; null where its header says neither. */
export function headerPhrase({ metadata }: Pick<Concept, 'metadata'>): FoundName | null {
  const phrase = nameIn(metadata.get('modelspec.trigger_phrase') ?? '');
  if (phrase !== null) return { name: phrase, source: 'modelspec.trigger_phrase of its header' };
  return mostFrequent(metadata.get('ss_tag_frequency'));
}

/** What its header says, else its file's name. */
export function triggerPhrase(concept: Pick<Concept, 'metadata' | 'path'>): FoundName {
  return (
    headerPhrase(concept) ?? {
      name: path.parse(concept.path).name.replace(/[_-]+/g, ' ').trim(),
      source: "its file's name",
    }
  );
}

/** The text as a name, in one line; null for one that can be none. */
function nameIn(text: string): string | null {
  const name = text.replace(/\s+/g, ' ').trim();
  return name === '' || name.length > LONGEST || visible(name) !== name ? null : name;
}

/**
 * sd-scripts writes how often each tag stood in the captions of each folder: `{"10_sks dog": {"sks dog": 20, "grass": 7}}`. A folder is called by
 * repeats and phrase; where captions are sentences, each another, the phrase is in more of them than any tag has captions. Of several
 * that are equally frequent the first tag counts: captions begin with the trigger.
 */
function mostFrequent(text: string | undefined): FoundName | null {
  let folders: unknown;
  try {
    folders = JSON.parse(text ?? 'null');
  } catch {
    // A header may be cut off; it is one source of several.
    return null;
  }
  const tags = new Map<string, number>();
  const named = new Map<string, number>();
  for (const [folder, counts] of Object.entries(folders ?? {})) {
    if (typeof counts !== 'object' || counts === null) continue;
    const phrase = nameIn(/^\d+_(.+)$/s.exec(folder)?.[1] ?? '');
    const holds = new WordMatcher(phrase === null ? [] : [phrase], PROMPT_WORDS);
    for (const [tag, count] of Object.entries(counts as Record<string, unknown>)) {
      if (typeof count !== 'number' || !(count > 0)) continue;
      const name = nameIn(tag);
      if (name !== null) tags.set(name, (tags.get(name) ?? 0) + count);
      if (phrase !== null && holds.find(tag).length > 0) {
        named.set(phrase, (named.get(phrase) ?? 0) + count);
      }
    }
  }
  const [tag, folder] = [largest(tags), largest(named)];
  if (folder !== null && folder.count > (tag?.count ?? 0)) {
    return { name: folder.name, source: "a folder's name in ss_tag_frequency of its header" };
  }
  if (tag === null) return null;
  return { name: tag.name, source: 'the most frequent tag in ss_tag_frequency of its header' };
}

/** The first of the highest count. */
function largest(counts: ReadonlyMap<string, number>): { name: string; count: number } | null {
  let best: { name: string; count: number } | null = null;
  for (const [name, count] of counts) if (best === null || count > best.count) best = { name, count };
  return best;
}
