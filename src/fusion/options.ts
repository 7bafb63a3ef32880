/** Options of a fusion, their defaults and presets. */
import { z } from 'zod';
import { UsageError } from '../errors.ts';
import { FUSION_METHOD_NAMES, type FusionMethodName, METHOD_DEFAULTS } from './solvers/method.ts';
import { DEFAULT_ENERGY_SHARE } from './solvers/recompress.ts';
import { STAGES, type Stage } from './stage.ts';

/** A number per stage, or the word for choosing it on held-out features (parameter-choice.ts). */
export type ChosenPerStage = Readonly<Record<Stage, number | 'auto'>>;

export interface SolveOptions {
  /** Stages to fuse, in their own order; layers of the others keep the base weight. Default: all three. */
  readonly stages: readonly Stage[];
  /** How a stage is solved where the method is defined for it, `normal` elsewhere. Default `normal`. */
  readonly method: FusionMethodName;
  /** λ per stage, relative to the mean diagonal of the concepts' Gram sum. ≥ 0; 0 is the minimum-norm optimum. */
  readonly ridge: ChosenPerStage;
  /** β per stage: weight of the generic captions, relative to the concepts' trace. ≥ 0; 0 turns preservation off. */
  readonly preserve: ChosenPerStage;
  /** Rank of the results: a number, `auto` for the least that keeps `rankShare`, `null` for the exact Σ r_i. Default `null`. */
  readonly rank: number | 'auto' | null;
  /** `rank: 'auto'` keeps this share of the effect on features, ‖X ΔWᵀ‖². In (0, 1]; default 0.99. */
  readonly rankShare: number;
  /**
   * Gradient steps of distillation on the UNet's fused factors after the solve (refine.ts); 0 leaves the closed form as it
   * is. Default 0.
   */
  readonly refine: number;
  /** L-BFGS: iterations at most; `null` for the published counts of the stages (500, 500, 50). */
  readonly iterations: number | null;
}

export interface CollectOptions {
  /** Denoising steps (DPM-Solver++ 2M) whose features the spatial stage sees. Default 20, minimum 1. */
  readonly steps: number;
  /** Seed of the initial latents; every run draws its own from it. Default 0. */
  readonly seed: number;
  /**
   * Prompts with `{}` for the concept's name. Text encoders and K/V see all of them, denoising runs take them in turn. Default: the
   * two of the reference, and six that put the name beside other words.
   */
  readonly promptTemplates: readonly string[];
  /** Denoising runs per concept, each from its own noise. Default 2, minimum 1; 1 in the reference. */
  readonly runs: number;
  /**
   * Guidance of the denoising runs, as pictures will be drawn. Default 4. A guided run sees the prompt and the empty
   * prompt side by side. 1 or less draws by the prompt alone, as the reference does.
   */
  readonly guidanceScale: number;
  /**
   * Guided runs: spatial rows are x_empty + contrast · (x_prompt − x_empty). 1 is the prompted row alone; more weighs what
   * the prompt changes, which is what tells concepts apart. Default 2.5 (docs/fusion.md).
   */
  readonly contrast: number;
  /** Size of the pictures in pixels; `null`: the size the base was trained at. Default `null`. */
  readonly size: { readonly width: number; readonly height: number } | null;
  /**
   * In which model a concept's features are collected: `fused`: with the stages before it fused already, as
   * Mix-of-Show does; `own`: in the concept's own model, independent of the others. Default `own`.
   */
  readonly statistics: 'fused' | 'own';
}

export type FusionOptions = SolveOptions & CollectOptions;

const PUBLISHED_TEMPLATES = ['photo of a {}', '{}'] as const;

/**
 * A text encoder that was solved on two wordings answers others badly, alone or fused (docs/fusion.md, "Text"). They cost a pass of
 * the text encoders each.
 */
const OTHER_WORDINGS = [
  'a {} beside a window',
  'a {} in the snow',
  'two people beside a {}',
  'a drawing of a {} at night',
  'a large {} in front of a red house',
  'a {} and a blue car',
] as const;

/** Ridge and preservation from the measurements on the trained miniatures (docs/fusion.md). */
export const DEFAULTS: FusionOptions = {
  stages: STAGES,
  method: 'normal',
  ridge: { text: 1e-1, cross: 1e-1, spatial: 1e-2 },
  preserve: { text: 0.3, cross: 1, spatial: 0.02 },
  rank: null,
  rankShare: DEFAULT_ENERGY_SHARE,
  refine: 0,
  iterations: METHOD_DEFAULTS.iterations,
  steps: 20,
  seed: 0,
  promptTemplates: [...PUBLISHED_TEMPLATES, ...OTHER_WORDINGS],
  runs: 2,
  guidanceScale: 4,
  contrast: 2.5,
  size: null,
  statistics: 'own',
};

/**
 * Named sets of options. `mix-of-show` is the published objective on features collected as published: no preservation,
 * and a ridge so small that it only keeps the solve stable where features do not determine the weights.
 */
export const PRESETS = {
  'mix-of-show': {
    ridge: { text: 1e-6, cross: 1e-6, spatial: 1e-6 },
    preserve: { text: 0, cross: 0, spatial: 0 },
    promptTemplates: [...PUBLISHED_TEMPLATES],
    runs: 1,
    guidanceScale: 1,
    statistics: 'fused',
  },
} as const satisfies Record<string, Partial<FusionOptions>>;

export type Preset = keyof typeof PRESETS;

const perStage = <T extends z.ZodType>(value: T) => z.object({ text: value, cross: value, spatial: value });
const chosen = perStage(z.union([z.number(), z.literal('auto')]));

/** Options as they stand in a recipe: all of them, or some over the defaults. Ranges are `checkFusionOptions`'. */
export const fusionOptionsSchema = z
  .strictObject({
    stages: z.array(z.enum(STAGES)).max(STAGES.length),
    method: z.enum(FUSION_METHOD_NAMES),
    ridge: chosen,
    preserve: chosen,
    rank: z.union([z.number(), z.literal('auto'), z.null()]),
    rankShare: z.number(),
    refine: z.number(),
    iterations: z.number().nullable(),
    steps: z.number(),
    seed: z.number(),
    promptTemplates: z.array(z.string()),
    runs: z.number(),
    guidanceScale: z.number(),
    contrast: z.number(),
    size: z.object({ width: z.number(), height: z.number() }).nullable(),
    statistics: z.enum(['fused', 'own']),
  })
  .partial();

/** Runs of a concept. Each costs a run of the sampler; what guides them is made before the first. */
const MAX_RUNS = 1000;
/** Steps of distillation; published runs have some hundreds. */
const MAX_REFINE = 1_000_000;
/** Above any rank that a layer of a known model can have. */
const MAX_RANK = 1 << 16;
const MAX_ITERATIONS = 1_000_000;
/** Beyond this, rows of contrast and guided latents leave the range of float32 within a run. */
const MAX_WEIGHT = 1e4;
/** Pixels of a side; attention grows with the fourth power of it. */
const MAX_SIDE = 4096;
const MAX_TEMPLATES = 1000;
const MAX_TEMPLATE_CHARACTERS = 10_000;

/**
 * Check every number. @throws {UsageError} naming the option, what is allowed, and what it got
 */
export function checkFusionOptions(options: FusionOptions): void {
  const { rank, rankShare, refine, iterations, statistics, stages } = options;
  for (const name of ['ridge', 'preserve'] as const) {
    for (const stage of STAGES) {
      const value = options[name][stage];
      if (value !== 'auto' && !(Number.isFinite(value) && value >= 0)) {
        throw new UsageError(`${name} ${stage}: expected a number ≥ 0 or auto, got ${value}`);
      }
      if (value === 'auto' && statistics === 'fused') {
        throw new UsageError(
          `${name} ${stage}: auto needs statistics of the concepts' own models, got fused`,
        );
      }
    }
  }
  if (stages.length === 0) throw new UsageError('stages: expected at least one of text, cross, spatial');
  if (rank !== null && rank !== 'auto') checkWhole('rank', rank, 1, MAX_RANK);
  if (!(rankShare > 0 && rankShare <= 1)) {
    throw new UsageError(`rank share: expected a number above 0, up to 1, got ${rankShare}`);
  }
  checkWhole('refine', refine, 0, MAX_REFINE);
  if (iterations !== null) checkWhole('iterations', iterations, 1, MAX_ITERATIONS);
  checkCollectOptions(options);
}

/** The same for what a collection needs. @throws {UsageError} */
export function checkCollectOptions(options: CollectOptions): void {
  const { steps, runs, guidanceScale, contrast, seed, size, promptTemplates } = options;
  checkWhole('steps', steps, 1, 1000);
  checkWhole('runs', runs, 1, MAX_RUNS);
  for (const [name, value] of [
    ['guidance', guidanceScale],
    ['contrast', contrast],
  ] as const) {
    if (!(Math.abs(value) <= MAX_WEIGHT)) {
      throw new UsageError(`${name}: expected a number from ${-MAX_WEIGHT} to ${MAX_WEIGHT}, got ${value}`);
    }
  }
  if (!Number.isSafeInteger(seed)) throw new UsageError(`seed: expected an integer, got ${seed}`);
  if (size !== null) {
    checkWhole('width', size.width, 8, MAX_SIDE);
    checkWhole('height', size.height, 8, MAX_SIDE);
  }
  if (promptTemplates.length === 0 || promptTemplates.some((text) => !text.includes('{}'))) {
    throw new UsageError('prompt templates: expected at least one, each with {} where the concept goes');
  }
  const longest = Math.max(...promptTemplates.map((text) => text.length));
  if (promptTemplates.length > MAX_TEMPLATES || longest > MAX_TEMPLATE_CHARACTERS) {
    throw new UsageError(
      `prompt templates: expected at most ${MAX_TEMPLATES} of ${MAX_TEMPLATE_CHARACTERS} characters, got ${promptTemplates.length}, the longest of ${longest}`,
    );
  }
}

function checkWhole(name: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  const range = most === Number.MAX_SAFE_INTEGER ? `≥ ${least}` : `from ${least} to ${most}`;
  throw new UsageError(`${name}: expected a whole number ${range}, got ${value}`);
}
