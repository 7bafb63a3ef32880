/**
 * `auto`: ridge and preservation chosen on features that were not solved on: other noise, other steps, other prompts of the
 * same concepts. Every candidate is solved and judged from Gram matrices alone; no network runs for it.
 */
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { Pace } from '../../pace.ts';
import type { CollectOptions } from '../options.ts';
import { measureLayers } from '../report/measure-stage.ts';
import type { ParameterChoice } from '../report/report.ts';
import {
  inputProblem,
  inputProblems,
  layerProblems,
  layersByInput,
  type StageProblem,
} from '../solve-stage.ts';
import type { StageStatistics } from '../statistics/statistics.ts';
import { fusionMethod, METHOD_DEFAULTS, prepareMethod } from './method.ts';

export const RIDGE_CANDIDATES = [1e-4, 1e-3, 1e-2, 1e-1, 1] as const;
export const PRESERVE_CANDIDATES = [0, 0.01, 0.02, 0.05, 0.1, 0.3, 1] as const;

/** Shares of effect kept that differ by less count as equal. */
const SAME_KEPT = 0.002;
/** What preservation may cost of the concepts' effect on held-out features. */
const PRESERVATION_COST = 0.01;

/** What features are held out: one run from another seed, with other steps and other prompts. */
export function heldOutOptions(options: CollectOptions): CollectOptions {
  return {
    ...options,
    seed: options.seed + 1,
    steps: Math.max(1, Math.round(0.7 * options.steps)),
    runs: 1,
    promptTemplates: ['a picture of a {}', 'a {} on a table'],
  };
}

export interface ChoiceProblem {
  readonly problem: StageProblem;
  /** Held-out statistics per concept. */
  readonly heldOut: readonly StageStatistics[];
  readonly ridge: number | 'auto';
  readonly preserve: number | 'auto';
  readonly engine: MatmulEngine | null;
  /** Of everything that takes long. Default: one that nothing ends. */
  readonly pace?: Pace;
  /** Called after each candidate; may throw to stop. */
  readonly onCandidate?: (name: 'ridge' | 'preserve', value: number) => void;
}

export interface Choices {
  readonly ridge: ParameterChoice | null;
  readonly preserve: ParameterChoice | null;
}

/** Preservation while the ridge is being chosen, if it is to be chosen as well. */
const PRESERVE_MEANWHILE = 0.1;

/**
 * Choose what is `auto`: the ridge that keeps most of the concepts' effect on held-out features (of equals, the largest);
 * then the strongest preservation that costs at most one point of it.
 */
export async function chooseParameters(choice: ChoiceProblem): Promise<Choices> {
  const { problem, ridge, preserve } = choice;
  let chosenRidge: ParameterChoice | null = null;
  if (ridge === 'auto') {
    const meanwhile = preserve === 'auto' ? PRESERVE_MEANWHILE : preserve;
    const candidates = [];
    for (const value of RIDGE_CANDIDATES) {
      candidates.push({ value, ...(await judge(choice, value, meanwhile)) });
      choice.onCandidate?.('ridge', value);
    }
    const best = Math.max(...candidates.map(({ kept }) => kept));
    const chosen = candidates.findLast(({ kept }) => kept >= best - SAME_KEPT)!;
    chosenRidge = {
      chosen: chosen.value,
      candidates,
      reason: `keeps ${percent(chosen.kept)} of the concepts' effect on held-out features; the best of all keeps ${percent(best)}`,
    };
  }
  if (preserve !== 'auto' || problem.prior === null) return { ridge: chosenRidge, preserve: null };
  const usedRidge = chosenRidge?.chosen ?? (ridge as number);
  const candidates = [];
  for (const value of PRESERVE_CANDIDATES) {
    candidates.push({ value, ...(await judge(choice, usedRidge, value)) });
    choice.onCandidate?.('preserve', value);
  }
  const best = Math.max(...candidates.map(({ kept }) => kept));
  const chosen = candidates.findLast(({ kept }) => kept >= best - PRESERVATION_COST)!;
  return {
    ridge: chosenRidge,
    preserve: {
      chosen: chosen.value,
      candidates,
      reason: `the strongest that costs at most ${percent(PRESERVATION_COST)} of the concepts' effect on held-out features`,
    },
  };
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** Solve with the given values, and measure on held-out features. */
async function judge(
  { problem, heldOut, engine, pace = new Pace() }: ChoiceProblem,
  ridge: number,
  preserve: number,
): Promise<Omit<ParameterChoice['candidates'][number], 'value'>> {
  const effects = problem.deltas.map(() => ({ own: 0, residual: 0 }));
  let [preserved, energies, largestChange] = [0, 0, null as number | null];
  for await (const { layers, input, rows } of inputProblems(problem, layersByInput(problem), {
    ridge,
    preserve,
  })) {
    const prepared = await prepareMethod(fusionMethod('normal'), input, {
      stage: problem.stage,
      rows,
      options: METHOD_DEFAULTS,
      engine,
      pace,
    });
    const solutions = await prepared.solve(layerProblems(problem, layers, input));
    const fused = solutions.map(({ delta }) => delta);
    const judged = await inputProblem({ ...problem, collected: heldOut }, layers, { ridge, preserve });
    const measured = await measureLayers(
      layerProblems(problem, layers, judged.input),
      fused,
      judged.rows,
      engine,
      pace,
    );
    for (const { concepts, preservedChange, relativeChange } of measured) {
      concepts.forEach(({ ownEffect, residual }, i) => {
        effects[i]!.own += ownEffect;
        effects[i]!.residual += residual;
      });
      if (preservedChange !== null) {
        preserved += preservedChange ** 2;
        energies++;
      }
      if (relativeChange !== null) largestChange = Math.max(largestChange ?? 0, relativeChange);
    }
  }
  const shares = effects.flatMap(({ own, residual }) => (own > 0 ? [1 - residual / own] : []));
  return {
    kept: shares.length === 0 ? 0 : shares.reduce((a, b) => a + b, 0) / shares.length,
    largestChange,
    preservedChange: energies === 0 ? null : Math.sqrt(preserved / energies),
  };
}
