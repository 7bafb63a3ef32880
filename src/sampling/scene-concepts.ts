/**
 * Whose region is it: which of a scene's concepts act in the context and in every region. A region's words and `loras` name its
 * concepts; what the context names, and files without words, act everywhere.
 */
import path from 'node:path';
import { excerpt } from '../formats/excerpt.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { hasNoPlace } from '../models/unet/factor-places.ts';
import { COMBINATIONS } from './combine.ts';
import type { ConceptUse } from './concept-places.ts';
import type { SceneConcept } from './model-source.ts';
import type { ResolvedRequest } from './request.ts';
import type { NormalScene, WeightFile } from './scene.ts';

export interface PlacedConcepts {
  /** Of the context. */
  readonly context: readonly ConceptUse[];
  /** Of each region. */
  readonly regions: readonly (readonly ConceptUse[])[];
  /** What the user should know. */
  readonly notes: readonly string[];
}

type Named = Pick<NormalScene, 'prompt' | 'prompt2' | 'styleMix' | 'promptLoras' | 'conceptsEverywhere'> & {
  readonly regions: readonly Pick<NormalScene['regions'][number], 'prompt' | 'loras'>[];
};

/** @param concepts of the scene's model, in its order */
export function placeConcepts(scene: Named, concepts: readonly SceneConcept[]): PlacedConcepts {
  const { prompt = '', prompt2 = '', styleMix = {}, promptLoras = [] } = scene;
  const { regions, conceptsEverywhere = false } = scene;
  const anywhere = regions.length === 0 || conceptsEverywhere;
  const matcher = new WordMatcher(
    concepts.flatMap(({ words }) => words),
    PROMPT_WORDS,
  );
  const wordsIn = (texts: readonly string[]): Set<string> =>
    new Set(texts.flatMap((text) => matcher.find(text).map(({ word }) => word)));
  const inContext = wordsIn([prompt, prompt2, ...Object.values(styleMix)]);
  const context = concepts.map((concept, i) => {
    const { own, words } = concept;
    const called =
      own !== null && (anywhere || words.length === 0 || words.some((word) => inContext.has(word)));
    return useOf(i, namedIn(promptLoras, concept) ?? (called ? own : null));
  });
  const perRegion = regions.map(({ prompt: text, loras = [] }) => {
    const named = wordsIn([text]);
    return concepts.map((concept, i) => {
      const { own, words } = concept;
      const called = own !== null && words.some((word) => named.has(word));
      return useOf(i, namedIn(loras, concept)) ?? context[i] ?? useOf(i, called ? own : null);
    });
  });
  return {
    context: context.filter((use) => use !== null),
    regions: perRegion.map((uses) => uses.filter((use) => use !== null)),
    notes: anywhere ? [] : notesOn(concepts, context, perRegion),
  };
}

type Strengths = Omit<WeightFile, 'path'>;

function namedIn(files: readonly WeightFile[], { path: own }: SceneConcept): Strengths | null {
  return files.findLast((file) => file.path === own) ?? null;
}

function useOf(concept: number, strengths: Strengths | null): ConceptUse | null {
  if (strengths === null) return null;
  const { unetStrength, textEncoderStrength } = strengths;
  return { concept, unetStrength, textEncoderStrength };
}

function notesOn(
  concepts: readonly SceneConcept[],
  context: readonly (ConceptUse | null)[],
  regions: readonly (readonly (ConceptUse | null)[])[],
): string[] {
  const notes: string[] = [];
  const placed = new Set<number>();
  concepts.forEach(({ path: file, words, deltas }, i) => {
    if (context[i] !== null) return;
    const name = path.basename(file);
    if (regions.every((uses) => uses[i] === null)) {
      notes.push(
        `${name}: acts nowhere, since no prompt has ${words.map((word) => excerpt(word)).join(' or ')}`,
      );
      return;
    }
    placed.add(i);
    const left = placeless(deltas);
    if (left > 0) {
      notes.push(
        `${name}: what it changes in the timestep's embedding (${left} of its layers) is of no place, and left out`,
      );
    }
  });
  regions.forEach((uses, i) => {
    if (placed.size < 2 || uses.some((use) => use !== null && placed.has(use.concept))) return;
    notes.push(`region ${i + 1}: names no concept; only what acts everywhere draws it`);
  });
  return notes;
}

/** Layers of a change that nothing keeps to a part of the picture. */
function placeless(deltas: SceneConcept['deltas']): number {
  return [...deltas.keys()].filter((id) => hasNoPlace(id.slice(id.indexOf(':') + 1))).length;
}

/** What the user should know of concepts that take turns, or are asked one by one. */
export function combinationNotes(
  { combine, concepts: uses = [] }: Pick<ResolvedRequest, 'combine' | 'concepts'>,
  concepts: readonly SceneConcept[],
): string[] {
  if (!COMBINATIONS[combine].apart) return [];
  if (uses.length < 2) {
    return [
      `\`combine\` has no effect: ${uses.length === 0 ? 'no file acts' : 'one file acts'}, and there is nothing to combine it with`,
    ];
  }
  return uses.flatMap(({ concept }) => {
    const { path: file, deltas } = concepts[concept]!;
    const left = placeless(deltas);
    if (left === 0) return [];
    return [
      `${path.basename(file)}: what it changes in the timestep's embedding (${left} of its layers) cannot take turns, and is left out`,
    ];
  });
}
