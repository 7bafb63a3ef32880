/**
 * A scene whose regions nobody drew: which concepts its prompt calls, and the texts that draw each of them. LoRAs without words are called
 * by the phrase of their header; those that the prompt does not call act everywhere, as in any scene.
 */
import path from 'node:path';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { regionTexts } from './auto-regions/region-texts.ts';
import type { SceneConcept, SceneModel } from './model-source.ts';
import type { WeightFile } from './scene.ts';

export interface WordedRegion {
  readonly prompt: string;
  readonly words: readonly string[];
  /** LoRAs without words of their own that these words call. */
  readonly loras?: readonly WeightFile[];
}

export interface WordedScene {
  readonly regions: readonly WordedRegion[];
  readonly background: string;
}

/** @throws {UsageError} if the prompt calls no concept */
export function wordedScene(
  prompt: string,
  model: Pick<SceneModel, 'conceptNames' | 'concepts' | 'wordFiles' | 'vocabulary'>,
): WordedScene {
  const { conceptNames, concepts, wordFiles, vocabulary } = model;
  const known = new Set(vocabulary.tokens.map(({ word }) => word));
  const named = conceptNames.map((name) => {
    const own = name.split(' ').filter((word) => known.has(word));
    return own.length > 0 ? own : [name];
  });
  const phrases = concepts.flatMap(({ phrase, own }) =>
    phrase === null || own === null ? [] : [[phrase.name]],
  );
  const groups = [...wordFiles.map(({ words }) => words), ...phrases, ...named];
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
    regions: regions.map((words, i) => {
      const loras = concepts.flatMap(({ path: file, phrase, own }) =>
        phrase !== null && own !== null && words.includes(phrase.name) ? [{ path: file, ...own }] : [],
      );
      return { words, prompt: texts.regions[i]!, ...(loras.length === 0 ? {} : { loras }) };
    }),
  };
}

/** The concepts of a scene as its regions name them: what a phrase calls acts where it is called alone. */
export function calledByPhrase(
  { regions }: WordedScene,
  concepts: readonly SceneConcept[],
): { readonly concepts: readonly SceneConcept[]; readonly notes: readonly string[] } {
  const called = new Set(regions.flatMap(({ loras = [] }) => loras.map((file) => file.path)));
  const notes: string[] = [];
  const placed = concepts.map((concept) => {
    if (!called.has(concept.path)) return concept;
    const { name, source } = concept.phrase!;
    notes.push(`${path.basename(concept.path)}: acts where "${excerpt(name)}" is going to stand (${source})`);
    return { ...concept, own: null };
  });
  return { concepts: placed, notes };
}
