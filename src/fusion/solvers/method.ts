/**
 * The methods of fusion, as one table: name, title, source, parameters, and how each solves a layer. The command line,
 * reports and documentation read it; `prepareMethod` runs it. All methods take the one problem type of problem.ts and
 * return the change as factors, so that results compare layer by layer.
 */

import { UsageError } from '../../errors.ts';
import type { LowRank } from '../../linalg/low-rank.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { nearestName } from '../../nearest-name.ts';
import { Pace } from '../../pace.ts';
import { STAGES, type Stage } from '../stage.ts';
import { constrainInputSteps, solveConstrainedSteps } from './constrained.ts';
import { gradientSystem, PUBLISHED_ITERATIONS, solveByGradientSteps } from './gradient.ts';
import { factoriseInputSteps, factoriseInputWith, solveLayers } from './least-squares.ts';
import type { InputProblem, LayerProblem } from './problem.ts';
import { average, weightedSum } from './weighted-sum.ts';

export const FUSION_METHOD_NAMES = ['normal', 'lbfgs', 'custom-diffusion', 'average', 'sum'] as const;
export type FusionMethodName = (typeof FUSION_METHOD_NAMES)[number];

/** A parameter that a method listens to; others have no influence on it. */
export type MethodParameter = 'ridge' | 'preserve' | 'iterations' | 'history' | 'weights';

/** What a run of a method may set, beside ridge and preservation, which belong to the input problem. */
export interface MethodOptions {
  /** L-BFGS iterations at most; `null`: the published counts of the stage (500, 500, 50). */
  readonly iterations: number | null;
  /** Pairs that L-BFGS remembers; ≥ 1. Default 25. */
  readonly history: number;
  /** `average`: shares that add up to 1; `sum`: strengths. One per concept; `null`: equal shares, strength 1 each. */
  readonly weights: readonly number[] | null;
}

export const METHOD_DEFAULTS: MethodOptions = { iterations: null, history: 25, weights: null };

/** Where a method is run. */
export interface MethodContext {
  readonly stage: Stage;
  /** N: feature rows of all concepts behind the input. */
  readonly rows: number;
  readonly options: MethodOptions;
  /** Computes large matrix products; `null`: plain loops do. */
  readonly engine: MatmulEngine | null;
  /** Of everything that takes long. Default: one that nothing ends. */
  readonly pace?: Pace;
}

/** The change of one layer, and what its solver can tell of the way there. */
export interface LayerSolution {
  readonly delta: LowRank;
  /** L-BFGS: mean squared error at the base, then after each iteration. */
  readonly losses?: readonly number[];
  /** L-BFGS: evaluations of the loss. */
  readonly evaluations?: number;
}

/** What layers with a common input share, ready to solve each of them. */
export interface PreparedInput {
  /** Condition number of the system, or a lower bound; `null` where the method solves none. */
  readonly condition: number | null;
  /** Layers that read the input, in order. @throws {ShapeError|UsageError|NumericalError} naming the layer */
  solve(layers: readonly LayerProblem[]): Promise<LayerSolution[]>;
}

export interface FusionMethod {
  readonly name: FusionMethodName;
  readonly title: string;
  /** What it does, in one sentence. */
  readonly idea: string;
  readonly source: string;
  readonly parameters: readonly MethodParameter[];
  /** Stages it is defined for; layers of others keep what another method gave them. */
  readonly stages: readonly Stage[];
  /** What it needs to know of features: nothing, their Gram matrices (or rows), or the rows themselves. */
  readonly features: 'none' | 'grams' | 'rows';
  /** @throws {ShapeError|UsageError|NumericalError} naming the input */
  prepare(input: InputProblem, context: MethodContext): Promise<PreparedInput>;
}

const eachLayer =
  (solve: (layer: LayerProblem) => LayerSolution | Promise<LayerSolution>): PreparedInput['solve'] =>
  async (layers) => {
    const solutions: LayerSolution[] = [];
    for (const layer of layers) solutions.push(await solve(layer));
    return solutions;
  };

const methods: Readonly<Record<FusionMethodName, Omit<FusionMethod, 'name'>>> = {
  normal: {
    title: 'Normal equations',
    idea: 'The optimum of the fusion objective in closed form, with ridge and prior preservation.',
    source: 'Objective of Mix-of-Show (arXiv:2305.18292), solved exactly; docs/fusion.md',
    parameters: ['ridge', 'preserve'],
    stages: STAGES,
    features: 'grams',
    prepare: async (input, { engine, pace = new Pace() }) => {
      const system =
        engine === null
          ? await pace.run(factoriseInputSteps(input))
          : await factoriseInputWith(engine, input, undefined, pace);
      return {
        condition: system.condition,
        solve: async (layers) => (await solveLayers(system, layers, pace)).map((delta) => ({ delta })),
      };
    },
  },
  lbfgs: {
    title: 'Gradient fusion',
    idea: 'The same objective by a fixed number of L-BFGS iterations from the base weight, as published.',
    source: 'Mix-of-Show (arXiv:2305.18292), gradient_fusion.py; here from Gram matrices',
    parameters: ['iterations', 'history', 'ridge', 'preserve'],
    stages: STAGES,
    features: 'grams',
    prepare: async (input, { stage, rows, options, pace = new Pace() }) => {
      const system = await pace.run(gradientSystem(input));
      const iterations = options.iterations ?? PUBLISHED_ITERATIONS[stage];
      return {
        condition: null,
        solve: eachLayer(async (layer) => {
          const { history } = options;
          const { delta, losses, evaluations } = await pace.run(
            solveByGradientSteps(system, layer, { rows, iterations, history }),
          );
          return { delta, losses, evaluations };
        }),
      };
    },
  },
  'custom-diffusion': {
    title: 'Constrained merge',
    idea: 'K and V hit the targets of the concept tokens exactly and move regularisation captions least.',
    source: 'Custom Diffusion (arXiv:2212.04488), src/composenW.py',
    parameters: ['ridge'],
    stages: ['cross'],
    features: 'rows',
    prepare: async (input, { pace = new Pace() }) => {
      const system = await pace.run(constrainInputSteps(input));
      return {
        condition: null,
        solve: eachLayer(async (layer) => ({ delta: await pace.run(solveConstrainedSteps(system, layer)) })),
      };
    },
  },
  average: {
    title: 'Weight average',
    idea: 'The mean of the concepts’ weights, blind to features.',
    source: 'Model soups (arXiv:2203.05482)',
    parameters: ['weights'],
    stages: STAGES,
    features: 'none',
    prepare: async (_, { options }) => ({
      condition: null,
      solve: eachLayer((layer) => ({ delta: average(layer, options.weights) })),
    }),
  },
  sum: {
    title: 'Sum of deltas',
    idea: 'All deltas at once, each with its strength, blind to features: what loading several LoRAs does.',
    source: 'Task arithmetic (arXiv:2212.04089)',
    parameters: ['weights'],
    stages: STAGES,
    features: 'none',
    prepare: async (_, { options }) => ({
      condition: null,
      solve: eachLayer((layer) => ({ delta: weightedSum(layer, options.weights) })),
    }),
  },
};

/** All methods, in the order in which they are shown; the first is the default. */
export const FUSION_METHODS: readonly FusionMethod[] = (Object.keys(methods) as FusionMethodName[]).map(
  (name) => ({
    name,
    ...methods[name],
  }),
);

/** The method of that name. @throws {UsageError} naming the nearest known one */
export function fusionMethod(name: string): FusionMethod {
  const method = FUSION_METHODS.find((candidate) => candidate.name === name);
  if (method !== undefined) return method;
  const names = FUSION_METHODS.map((candidate) => candidate.name);
  const nearest = nearestName(name, names);
  throw new UsageError(
    `unknown fusion method "${name}"; ` +
      (nearest === null ? `expected one of ${names.join(', ')}` : `did you mean "${nearest}"?`),
  );
}

/**
 * Prepare a method for one input.
 *
 * @throws {UsageError} if the method is not defined for the stage; else as its `prepare`
 */
export async function prepareMethod(
  method: FusionMethod,
  input: InputProblem,
  context: MethodContext,
): Promise<PreparedInput> {
  if (!method.stages.includes(context.stage)) {
    throw new UsageError(
      `${input.inputName}: the method ${method.name} is defined for the stage ${method.stages.join(', ')}, ` +
        `got ${context.stage}; fuse it with another method`,
    );
  }
  return method.prepare(input, context);
}
