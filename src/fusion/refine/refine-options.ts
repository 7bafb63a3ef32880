/** Options of a refinement and their defaults. */
import { UsageError } from '../../errors.ts';
import { isGuided } from '../../sampling/guidance.ts';

export interface RefineOptions {
  /** Gradient steps; 0 returns the start. Each costs about three forward passes of `batch` guided predictions. */
  readonly steps: number;
  /**
   * Steps between two looks at held-out predictions, where teachers have prompts for them. Where the last look finds no less error
   * than the first, the start is the result.
   */
  readonly checkSteps: number;
  /**
   * Adam's, at its highest, as a share of the root mean square of all numbers that are trained: wide layers have small factors, and a
   * step that suits a small model drives those of a large one apart. Rises over 10 steps and falls to 0 along a cosine.
   */
  readonly learningRate: number;
  /** Predictions compared in one step, and pictures drawn together. */
  readonly batch: number;
  /** Pictures of one pass of a network, a divisor of `batch`: what memory has room for. Others come one after the other. */
  readonly picturesPerPass: number;
  /** g of the guided predictions that are compared; 1 or less compares what the prompt alone predicts. */
  readonly guidanceScale: number;
  /** Share of the steps that generic captions get, in [0, 1). */
  readonly preserve: number;
  /**
   * How far the result lies from the start towards the last step's factors, in (0, 1]: between the two more of the start's other
   * prompts is left than identity is lost. After Wortsman et al. 2022 (2109.01903), who do so with all weights.
   */
  readonly reach: number;
  /** Steps of DPM-Solver++ 2M per drawing. */
  readonly denoisingSteps: number;
  /** Drawings by each teacher before the first step, or one of each of its prompts if these are more; rounded up to full batches. */
  readonly runs: number;
  /** Steps of a round. Before each but the first, the fused model draws a batch for every teacher. */
  readonly roundSteps: number;
  readonly seed: number;
  /** Compute activations a second time instead of keeping them: for full-size models. */
  readonly recomputeBlocks: boolean;
}

/** Steps for each concept with which all of the miniature's came back (docs/fusion.md). */
export const STEPS_PER_CONCEPT = 200;

/** Of the settings that were tried on the trained miniature (docs/fusion.md), for two concepts. */
export const REFINE_DEFAULTS: RefineOptions = {
  steps: 2 * STEPS_PER_CONCEPT,
  checkSteps: 100,
  learningRate: 0.035,
  batch: 4,
  picturesPerPass: 4,
  guidanceScale: 4,
  preserve: 0.5,
  reach: 0.75,
  denoisingSteps: 10,
  runs: 32,
  roundSteps: 200,
  seed: 0,
  recomputeBlocks: false,
};

/**
 * w of what is compared, e_c − w e_∅: a guided prediction g e_c − (g − 1) e_∅, divided by g. 0 without guidance.
 */
export function unpromptedWeight({ guidanceScale }: Pick<RefineOptions, 'guidanceScale'>): number {
  return isGuided(guidanceScale) ? 1 - 1 / guidanceScale : 0;
}

/** @throws {UsageError} naming the option, what is allowed, and what it got */
export function checkRefineOptions(options: RefineOptions): void {
  const whole = (name: keyof RefineOptions, from: number): void => {
    const value = options[name] as number;
    if (!(Number.isSafeInteger(value) && value >= from)) {
      throw new UsageError(`refine ${name}: expected a whole number ≥ ${from}, got ${value}`);
    }
  };
  whole('steps', 0);
  for (const name of ['batch', 'checkSteps', 'denoisingSteps', 'runs', 'roundSteps'] as const) whole(name, 1);
  whole('seed', Number.MIN_SAFE_INTEGER);
  const { batch, picturesPerPass } = options;
  if (!(Number.isSafeInteger(picturesPerPass) && picturesPerPass >= 1 && batch % picturesPerPass === 0)) {
    throw new UsageError(
      `refine picturesPerPass: expected a divisor of the batch of ${batch}, got ${picturesPerPass}`,
    );
  }
  const { learningRate, guidanceScale, preserve, reach } = options;
  if (!(learningRate > 0 && Number.isFinite(learningRate))) {
    throw new UsageError(`refine learning rate: expected a number > 0, got ${learningRate}`);
  }
  if (!Number.isFinite(guidanceScale)) {
    throw new UsageError(`refine guidance: expected a number, got ${guidanceScale}`);
  }
  if (!(preserve >= 0 && preserve < 1)) {
    throw new UsageError(`refine preserve: expected a share ≥ 0 and < 1, got ${preserve}`);
  }
  if (!(reach > 0 && reach <= 1)) {
    throw new UsageError(`refine reach: expected a share > 0 and ≤ 1, got ${reach}`);
  }
}
