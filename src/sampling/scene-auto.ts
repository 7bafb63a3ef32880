/** A scene whose regions nobody drew: which concepts its prompt calls, and the texts that draw each of them. */
import { UsageError } from '../errors.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { regionTexts } from './auto-regions/region-texts.ts';
import type { SceneModel } from './model-source.ts';

export interface WordedRegion {
  readonly prompt: string;
  readonly words: readonly string[];
}

export interface WordedScene {
  readonly regions: readonly WordedRegion[];
  readonly background: string;
}

/** @throws {UsageError} if the prompt calls no concept */
export function wordedScene(
  prompt: string,
  { conceptNames, wordFiles, vocabulary }: Pick<SceneModel, 'conceptNames' | 'wordFiles' | 'vocabulary'>,
): WordedScene {
  const known = new Set(vocabulary.tokens.map(({ word }) => word));
  const named = conceptNames.map((name) => {
    const own = name.split(' ').filter((word) => known.has(word));
    return own.length > 0 ? own : [name];
  });
  const groups = [...wordFiles.map(({ words }) => words), ...named];
  const called = new WordMatcher(groups.flat(), PROMPT_WORDS).find(prompt).map(({ word }) => word);
  const taken = new Set<string>();
  const regions = groups.flatMap((words) => {
    const own = words.filter((word) => called.includes(word) && !taken.has(word));
    for (const word of own) taken.add(word);
    return own.length === 0 ? [] : [own];
  });
  if (regions.length === 0) {
    const words = groups.flat().slice(0, 6).join(', ');
    throw new UsageError(
      `autoRegions: the prompt has no concept's words, so nothing in it has a place to find; ${
        words === '' ? 'load concepts that have some' : `the words are ${words}`
      }`,
    );
  }
  // From left to right, as they are read.
  regions.sort((a, b) => called.indexOf(a[0]!) - called.indexOf(b[0]!));
  const texts = regionTexts(prompt, regions);
  return {
    background: texts.background,
    regions: regions.map((words, i) => ({ words, prompt: texts.regions[i]! })),
  };
}
