/** What a refinement takes, said before it begins. */
import { isGuided } from '../../sampling/guidance.ts';
import type { RefineOptions } from './refine-options.ts';

/** A prediction with its way back, against the prediction alone. */
const STEP_PASSES = 3;

/** Batches that a teacher of so many prompts draws before the first step. */
export function firstBatches(
  { runs, batch }: Pick<RefineOptions, 'runs' | 'batch'>,
  prompts: number,
): number {
  return Math.ceil(Math.max(runs, prompts) / batch);
}

export interface RefineWork {
  /** What progress counts. */
  readonly units: number;
  /** Predictions of one picture that they are worth. */
  readonly passes: number;
}

/**
 * Work that a refinement takes: none without steps.
 * @param prompts of each teacher: of the concepts, and at last the captions if they are preserved
 * @param judged  teachers with held-out prompts
 */
export function refineWork(options: RefineOptions, prompts: readonly number[], judged: number): RefineWork {
  const { steps, batch, picturesPerPass, denoisingSteps, roundSteps, guidanceScale } = options;
  if (steps === 0) return { units: 0, passes: 0 };
  const rows = isGuided(guidanceScale) ? 2 : 1;
  const rounds = Math.ceil(steps / roundSteps) - 1;
  const first = prompts.reduce((sum, count) => sum + firstBatches(options, count), 0);
  const visited = (first + judged) * denoisingSteps * batch;
  const ownPolicy = rounds * prompts.length * denoisingSteps * batch;
  return {
    units: steps + (visited + ownPolicy) / picturesPerPass,
    // Where the fused model goes, its teacher predicts beside it; and without a prompt the base, everywhere.
    passes: rows * (STEP_PASSES * steps * batch + visited) + (1 + rows) * ownPolicy,
  };
}
