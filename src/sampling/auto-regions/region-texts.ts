/**
 * From one prompt to the texts of its regions: what each concept's region is drawn by is the prompt without the other concepts' words,
 * and what surrounds them the prompt without any. `a <cat> and a <dog> on grass` is `a <cat> on grass`, `a <dog> on grass` and `grass`.
 */
import { PROMPT_WORDS, WordMatcher } from '../../models/clip/word-matcher.ts';

/** Before a word that goes: an article, and what joined it to the words before. After it: what joins it to the next. */
const ARTICLE = String.raw`(?:(?:a|an|the|one|two)\s+)?`;
const JOINS = String.raw`(?:and|with|beside|next to|near|by|,|&|\+)`;
/** What stands where a concept's words were. */
const GAP = '\u0000';

export interface RegionTexts {
  /** By group: the prompt with the words of that group alone. */
  readonly regions: readonly string[];
  /** The prompt without words of any group. */
  readonly background: string;
}

/** @param groups words of each concept; words of others stay in every text */
export function regionTexts(prompt: string, groups: readonly (readonly string[])[]): RegionTexts {
  const without = (gone: readonly (readonly string[])[]): string => {
    const words = gone.flat();
    return words.length === 0
      ? prompt
      : closed(new WordMatcher(words, PROMPT_WORDS).replace(prompt, () => GAP));
  };
  return {
    regions: groups.map((own) => without(groups.filter((group) => group !== own))),
    background: without(groups),
  };
}

/** The text with its gaps closed: words that led to what is gone go too. */
function closed(text: string): string {
  const phrase = `${ARTICLE}${GAP}(?:\\s*${GAP})*`;
  return text
    .replace(new RegExp(`\\s*\\b${JOINS}\\s+${phrase}|\\s*[,&+]\\s*${phrase}`, 'gi'), '')
    .replace(new RegExp(`${phrase}\\s*${JOINS}?`, 'gi'), '')
    .replace(/\s+/g, ' ')
    .replace(/\s+,/g, ',')
    .trim();
}
