/**
 * How several concepts act together in one prompt: all added up; one after the other, step by step; or each alone at every step, and
 * the mean of what they predict. Zhong et al. 2024, "Multi-LoRA Composition for Image Generation" (2402.16843), sections 3.2 and 3.3.
 *
 * Differs from their code: a model of one concept reads the prompt with that concept alone, in the text encoder too, and the first
 * concept's turn is as long as the others' (`floor((t − 1) mod kτ / τ) + 1` of the paper).
 */
import type { ConceptStrengths, SourceStrengths } from './concept-places.ts';

/** Steps τ that each concept draws before it is the next one's turn: the paper's choice. */
export const TURN_STEPS = 5;

export interface Combination {
  readonly title: string;
  /** Whether each concept is a model of its own. */
  readonly apart: boolean;
  /** Which of `count` models a step asks; the mean of their predictions is the step's. @param step from 0 */
  readonly models: (step: number, count: number) => readonly number[];
}

export const COMBINATIONS = {
  sum: { title: 'sum', apart: false, models: () => [0] },
  switch: {
    title: 'LoRA Switch',
    apart: true,
    models: (step, count) => [Math.floor(step / TURN_STEPS) % count],
  },
  composite: {
    title: 'LoRA Composite',
    apart: true,
    models: (_, count) => Array.from({ length: count }, (_, model) => model),
  },
} as const satisfies Record<string, Combination>;

export type CombinationName = keyof typeof COMBINATIONS;
export const COMBINATION_NAMES = Object.keys(COMBINATIONS) as CombinationName[];

/** The models that a combination asks: by model, how much each concept counts. Concepts that act nowhere have none. */
export function combinedModels({ apart }: Combination, strengths: ConceptStrengths): ConceptStrengths[] {
  if (!apart) return [strengths];
  const acting = strengths.unet.flatMap((own, concept) =>
    [...own, ...strengths.textEncoder[concept]!].some((value) => value !== 0) ? [concept] : [],
  );
  const only = (wanted: number, all: SourceStrengths): SourceStrengths =>
    all.map((own, concept) => (concept === wanted ? own : own.map(() => 0)));
  if (acting.length === 0) return [strengths];
  return acting.map((concept) => ({
    unet: only(concept, strengths.unet),
    textEncoder: only(concept, strengths.textEncoder),
  }));
}
