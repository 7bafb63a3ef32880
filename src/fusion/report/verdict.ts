/** What a fusion's numbers mean, in sentences for people: did it work, and if not, what fights what? */

import { STEPS_PER_CONCEPT } from '../refine/refine-options.ts';
import { STAGES } from '../stage.ts';
import type { FusionReport } from './report.ts';

/** A concept of which less is left in a stage is hard to recognise. */
export const LITTLE_KEPT = 0.5;

/** From here on all of a concept counts as kept. */
const MOST_KEPT = 0.9;

/** A change that is larger than the concepts' own by more than this shows in other prompts. */
export const LARGE_CHANGE = 5;

/** Below this, two concepts hardly meet. */
const CLOSE = 0.8;

/** Two concepts, and what the own change of each does on the features of the other, relative to the other's own effect. */
export interface Collision {
  /** Whose features. */
  readonly on: string;
  /** Whose change. */
  readonly by: string;
  readonly share: number;
}

/** The pair that disturbs most; `null` with fewer than two concepts. */
export function worstCollision({ concepts, collisions }: FusionReport): Collision | null {
  let worst: Collision | null = null;
  collisions.forEach((row, i) => {
    row.forEach((share, j) => {
      if (i === j || (worst !== null && share <= worst.share)) return;
      worst = { on: concepts[i]!.name, by: concepts[j]!.name, share };
    });
  });
  return worst;
}

const percent = (share: number): string => `${Math.round(100 * share)} %`;

/** Least share kept over the stages of a concept; `null` if it trains nothing. */
function least(kept: FusionReport['concepts'][number]['kept']): number | null {
  const shares = STAGES.map((stage) => kept[stage]).filter((share) => share !== null);
  return shares.length === 0 ? null : Math.min(...shares);
}

interface Kept {
  readonly name: string;
  readonly share: number;
}

/** What concepts kept in their weakest stages, without those that train nothing. */
function weakest({ concepts }: FusionReport): Kept[] {
  return concepts.flatMap(({ name, kept }) => {
    const share = least(kept);
    return share === null ? [] : [{ name, share }];
  });
}

/** How much of the concepts was kept, in one sentence. */
export function keptSentence(report: FusionReport): string {
  const shares = weakest(report);
  if (shares.length === 0) return 'The concepts change nothing, so there was nothing to keep.';
  const weak = shares.filter(({ share }) => share < LITTLE_KEPT);
  if (weak.length > 0) {
    return `Not everything was kept: ${weak.map(({ name, share }) => `${name} has ${percent(share)} of its effect left in its weakest stage`).join(', ')}.`;
  }
  const { name, share } = shares.reduce((a, b) => (b.share < a.share ? b : a));
  return share < MOST_KEPT
    ? `The concepts were mostly kept: in its weakest stage ${name} has ${percent(share)} of its effect on its own features left.`
    : `Every concept was kept: in its weakest stage ${name} still has ${percent(share)} of its effect on its own features.`;
}

/** What a fusion of spatial layers that were solved one by one may be asked for next; null where nothing is left to ask. */
export function refinementAdvice(report: FusionReport): string | null {
  const isSolved = report.stages.some(({ stage, layers }) => stage === 'spatial' && layers > 0);
  const concepts = weakest(report).length;
  if (report.refinement !== null || concepts < 2 || !isSolved) return null;
  const steps = STEPS_PER_CONCEPT * concepts;
  return `This is layer by layer, and in pictures small errors of many layers meet: \`refine: ${steps}\` goes after them, for many times the work.`;
}

/** One sentence that says how it went, then those that say what to do about it. */
export function fusionVerdict(report: FusionReport): string[] {
  const sentences = [keptSentence(report)];
  const collision = worstCollision(report);
  if (collision !== null) {
    const { on, by, share } = collision;
    sentences.push(
      share < CLOSE
        ? `No two concepts are in each other’s way; most of all ${by} on ${on}, with ${percent(share)} of what ${on} does there itself.`
        : `${by} disturbs ${on} most: on the features of ${on} its change does ${percent(share)} of what ${on} does there itself.`,
    );
  }
  const large = report.stages.filter(({ largestChange }) => (largestChange ?? 0) > LARGE_CHANGE);
  for (const { stage, largestChange } of large) {
    sentences.push(
      `In the stage ${stage} a layer changed ${largestChange!.toFixed(1)} times as much as any concept’s own: other prompts may suffer. Try a higher ridge or more preservation in that stage.`,
    );
  }
  if (weakest(report).some(({ share }) => share < LITTLE_KEPT)) {
    sentences.push(
      'Try a lower ridge or less preservation there, a strength below 1 for the concept that disturbs, or fewer concepts.',
    );
  }
  const advice = refinementAdvice(report);
  return advice === null ? sentences : [...sentences, advice];
}
