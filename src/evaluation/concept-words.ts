/** Which concept words a prompt holds. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';

/** Concept words that a prompt holds, in the vocabulary's order. @throws {UsageError} if it holds none */
export function conceptWords(prompt: string, { tokens }: BoundVocabulary): string[] {
  const matcher = new WordMatcher(
    tokens.map(({ word }) => word),
    PROMPT_WORDS,
  );
  const held = new Set(matcher.find(prompt).map(({ word }) => word));
  const words = tokens.map(({ word }) => word).filter((word) => held.has(word));
  if (words.length > 0) return words;
  throw new UsageError(`attention maps: "${prompt}" holds no concept word; name words of it`);
}
