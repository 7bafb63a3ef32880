/** Options of a fusion, their defaults and presets. */
import { UsageError } from '../errors.ts';
import { type PerStage, STAGES, type Stage } from './stage.ts';

export interface SolveOptions {
  /** Stages to fuse, in their own order; layers of the others keep the base weight. Default: all three. */
  readonly stages: readonly Stage[];
  /** λ per stage, relative to the mean diagonal of the concepts' Gram sum. ≥ 0; 0 is the minimum-norm optimum. */
  readonly ridge: PerStage;
  /** β per stage: weight of the generic captions, relative to the concepts' trace. ≥ 0; 0 turns preservation off. */
  readonly preserve: PerStage;
}

export interface CollectOptions {
  /** Denoising steps (DPM-Solver++ 2M) whose features the spatial stage sees. Default 20, minimum 1. */
  readonly steps: number;
  /** Seed of the initial latents; every run draws its own from it. Default 0. */
  readonly seed: number;
  /** Prompts with `{}` for the concept's name. Denoising runs take them in turn. */
  readonly promptTemplates: readonly string[];
  /** Denoising runs per concept, each from its own noise. Default 2, minimum 1; 1 in the reference. */
  readonly runs: number;
  /**
   * Guidance of the denoising runs, as pictures will be drawn. Default 4. A guided run also gives the features of the
   * empty prompt, which spatial layers then preserve. 1 draws by the prompt alone, as the reference does, and
   * preserves generic captions instead.
   */
  readonly guidanceScale: number;
  /**
   * In which model a concept's features are collected: `fused`: with the stages before it fused already, as
   * Mix-of-Show does; `own`: in the concept's own model, independent of the others. Default `own`.
   */
  readonly statistics: 'fused' | 'own';
}

export type FusionOptions = SolveOptions & CollectOptions;

/** Ridge and preservation from the measurements on the trained miniature (docs/fusion.md). */
export const DEFAULTS: FusionOptions = {
  stages: STAGES,
  ridge: { text: 1e-2, cross: 1e-1, spatial: 1e-2 },
  preserve: { text: 0.3, cross: 1, spatial: 0.2 },
  steps: 20,
  seed: 0,
  promptTemplates: ['photo of a {}', '{}'],
  runs: 2,
  guidanceScale: 4,
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
    runs: 1,
    guidanceScale: 1,
    statistics: 'fused',
  },
} as const satisfies Record<string, Partial<FusionOptions>>;

export type Preset = keyof typeof PRESETS;

/**
 * Check every number. @throws {UsageError} naming the option, what is allowed, and what it got
 */
export function checkFusionOptions(options: FusionOptions): void {
  for (const name of ['ridge', 'preserve'] as const) {
    for (const stage of STAGES) {
      const value = options[name][stage];
      if (!(Number.isFinite(value) && value >= 0)) {
        throw new UsageError(`${name} ${stage}: expected a number ≥ 0, got ${value}`);
      }
    }
  }
  if (!(Number.isInteger(options.steps) && options.steps >= 1 && options.steps <= 1000)) {
    throw new UsageError(`steps: expected a whole number from 1 to 1000, got ${options.steps}`);
  }
  if (!(Number.isInteger(options.runs) && options.runs >= 1)) {
    throw new UsageError(`runs: expected a whole number ≥ 1, got ${options.runs}`);
  }
  if (!Number.isFinite(options.guidanceScale)) {
    throw new UsageError(`guidance: expected a number, got ${options.guidanceScale}`);
  }
  if (!Number.isSafeInteger(options.seed))
    throw new UsageError(`seed: expected an integer, got ${options.seed}`);
  if (options.stages.length === 0)
    throw new UsageError('stages: expected at least one of text, cross, spatial');
  if (options.promptTemplates.length === 0 || options.promptTemplates.some((text) => !text.includes('{}'))) {
    throw new UsageError('prompt templates: expected at least one, each with {} where the concept goes');
  }
}
