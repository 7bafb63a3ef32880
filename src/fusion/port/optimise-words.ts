/**
 * Shared embeddings under which keys and values can answer best: gradient steps of `WordObjective` through the text encoders, whose
 * best check on held-out templates counts.
 */
import type { Concept } from '../../concepts/concept.ts';
import { NumericalError } from '../../errors.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { BestCheck, type HeldOutCheck } from '../best-check.ts';
import { withRows } from './shared-words.ts';
import { type ObjectiveParts, WordObjective } from './word-objective.ts';
import { WordsInTexts } from './words-in-texts.ts';

export interface OptimisedWords {
  readonly concepts: readonly Concept[];
  /** Error on held-out templates, as a share of the base's. */
  readonly checks: readonly HeldOutCheck[];
}

/** Adam's, as a share of the embeddings' root mean square: at the first step; falls to 0 along a cosine. */
const LEARNING_RATE = 0.2;
/** Steps between two checks. */
const CHECK_STEPS = 5;

/**
 * Deterministic. Keeps the features of all templates and cross-attentions in memory.
 * @param concepts with one embedding per word: where it begins
 * @param onStep   called after each step
 * @throws {NumericalError} naming the step, if the objective stops being finite
 */
export async function optimiseWords(
  parts: ObjectiveParts,
  concepts: readonly Concept[],
  execution: ExecutionContext,
  onStep: (done: number) => void,
): Promise<OptimisedWords> {
  const { steps } = parts.options;
  const words = new WordsInTexts(parts, concepts, execution);
  try {
    const objective = await WordObjective.create(parts, await words.features());
    const best = new BestCheck();
    let kept = concepts;
    for (let step = 0; ; step++) {
      const { loss, gradient, heldOut } = await objective.at(await words.features());
      if (!Number.isFinite(loss)) {
        throw new NumericalError(`embeddings, step ${step} of ${steps}: the objective is not finite`, {
          value: loss,
        });
      }
      if (step % CHECK_STEPS === 0 || step === steps) {
        if (best.add({ step, error: heldOut })) kept = withRows(concepts, words.rows);
        if (best.isEnough) break;
      }
      if (step === steps) break;
      const rate = LEARNING_RATE * 0.5 * (1 + Math.cos((Math.PI * step) / steps));
      words.step(await words.gradients(gradient), rate);
      onStep(step + 1);
    }
    return { concepts: kept, checks: best.checks };
  } finally {
    await words.dispose();
  }
}
