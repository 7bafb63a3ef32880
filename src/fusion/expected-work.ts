/**
 * What a fusion will have to do, and how much of it is done. A unit of one kind costs a thousand times what one of another
 * does, so units are weighed by their arithmetic: how long the rest takes is then known from the first step on.
 */
import { multiplyAdds } from '../graph/multiply-adds.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { buildTextEncoder } from '../models/clip/text-encoder.ts';
import { buildUnet } from '../models/unet/unet.ts';
import type { Progress } from '../progress.ts';
import { GuidedRows } from '../sampling/guided-rows.ts';
import type { FusionOptions } from './options.ts';
import { type FusionPlan, preserves } from './plan.ts';
import { conceptPrompts } from './prompts.ts';
import { fusionRefineWork } from './refine/refine-fusion.ts';
import type { FusionProgress } from './report/report.ts';
import { heldOutOptions } from './solvers/parameter-choice.ts';
import { idInStage, STAGES, type Stage } from './stage.ts';
import { latentSizeFor, priorCaptions } from './statistics/collector.ts';

export type FusionAction = FusionProgress['action'];

/** Units of one kind. */
export interface FusionTask {
  readonly stage: Stage;
  readonly action: FusionAction;
  readonly units: number;
  /** Multiplications of a network's run that take as long as one unit. */
  readonly cost: number;
}

/**
 * A multiplication of the solve, by n²(n/3 + r + 2kr) of a layer with n inputs and r columns of k concepts in all, against one of a
 * network: the factorisation, the right-hand sides, and what the report measures of every concept. From processor times of one thread by
 * `npm run bench:fusion` for 3 and for 14 concepts, 6 s and 33 s, and a step's 20 s; a step makes more of a second thread.
 */
const SOLVE_COST = 6;

/** Everything that a plan would do if no statistics were kept. */
export async function fusionTasks(base: Checkpoint, plan: FusionPlan): Promise<FusionTask[]> {
  const { layers, options, concepts, captions } = plan;
  const pass = await passCost(base, plan);
  const prompts = promptCosts(base, plan);
  const held = STAGES.some((stage) => [options.ridge[stage], options.preserve[stage]].includes('auto'))
    ? heldOutOptions(options)
    : null;
  const own = options.statistics === 'own';
  const tasks = STAGES.filter((stage) => layers[stage].length > 0).flatMap((stage): FusionTask[] => {
    const spatial = stage === 'spatial';
    const runs = (steps: number): number => concepts.length * (spatial ? steps : 1);
    const cost = spatial ? pass : prompts[stage].concept;
    // Own statistics of the base are collected for all stages, or for none.
    const wanted = own ? captions.length > 0 : preserves(options, stage);
    const preserving = spatial ? options.steps * priorCaptions(captions, options).length : 1;
    return [
      { stage, action: 'collect', units: runs(options.steps * options.runs), cost },
      { stage, action: 'hold out', units: held === null ? 0 : runs(held.steps * held.runs), cost },
      {
        stage,
        action: 'preserve',
        units: wanted ? preserving : 0,
        cost: spatial ? pass : prompts[stage].captions,
      },
      { stage, action: 'solve', units: layers[stage].length, cost: solveCost(base, plan, stage) },
    ];
  });
  const { units, passes } = await fusionRefineWork(base, options, concepts.length, captions);
  const prediction = pass / guidedRows(options).count;
  return [
    ...tasks,
    { stage: 'spatial', action: 'refine', units, cost: (passes * prediction) / Math.max(1, units) },
  ];
}

/** Rows of one picture's step. */
export function guidedRows({ guidanceScale }: FusionOptions): GuidedRows {
  return new GuidedRows(1, { scale: guidanceScale });
}

/** One step of a denoising run with all its sums. */
async function passCost(base: Checkpoint, { layers, options }: FusionPlan): Promise<number> {
  const { weights, config } = base.parts.unet;
  const { height, width } = await latentSizeFor(base, options);
  const batch = guidedRows(options).count;
  const size = { batch, latentHeight: height, latentWidth: width, tokens: base.parts.maxPositions };
  return multiplyAdds(buildUnet(weights, config, size, { probes: { features: layers.spatial } }).graph);
}

/** Prompts of one concept, and all captions, through the text encoders. */
function promptCosts(
  base: Checkpoint,
  { vocabulary, concepts, options, captions }: FusionPlan,
): Readonly<Record<'text' | 'cross', { readonly concept: number; readonly captions: number }>> {
  const tokens = base.parts.maxPositions;
  let prompt = 0;
  for (const { weights, config } of base.parts.textEncoders.values()) {
    prompt += multiplyAdds(buildTextEncoder(weights, config, { batch: 1, tokens }).graph);
  }
  const { ids } = conceptPrompts(vocabulary, concepts[0]!.name, options.promptTemplates);
  // Layer prompts that are all the same run once.
  const all = [...new Map(ids.flat().map((text) => [JSON.stringify(text), text])).values()];
  const used = all.reduce((sum, { length }) => sum + length, 0) / tokens;
  return {
    text: { concept: prompt * used, captions: prompt * captions.length },
    cross: { concept: prompt * all.length, captions: prompt * captions.length },
  };
}

/** The mean layer of a stage. */
function solveCost(base: Checkpoint, { layers, concepts }: FusionPlan, stage: Stage): number {
  const sum = layers[stage].reduce((total, layerName) => {
    const id = idInStage(stage, layerName);
    const { n } = base.parts.layers.get(id)!;
    const rank = concepts.reduce((ranks, { deltas }) => ranks + (deltas.get(id)?.down.rows ?? 0), 0);
    return total + n * n * (n / 3 + rank + 2 * concepts.length * rank);
  }, 0);
  return (SOLVE_COST * sum) / layers[stage].length;
}

/** Counts what is done, in units and by its share of the work. */
export class WorkDone {
  readonly #tasks: readonly FusionTask[];
  #done = 0;
  #total: number;
  #spent = 0;
  #work: number;

  constructor(tasks: readonly FusionTask[]) {
    this.#tasks = tasks;
    this.#total = tasks.reduce((sum, { units }) => sum + units, 0);
    this.#work = tasks.reduce((sum, { units, cost }) => sum + units * cost, 0);
  }

  /** One unit is done. */
  advance(stage: Stage, action: FusionAction): Required<Progress> {
    this.#done++;
    this.#spent += this.#cost(stage, action);
    return { done: this.#done, total: this.#total, share: this.#spent / this.#work };
  }

  /** Units that need not be done. */
  skip(stage: Stage, action: FusionAction, units: number): void {
    this.#total -= units;
    this.#work -= units * this.#cost(stage, action);
  }

  #cost(stage: Stage, action: FusionAction): number {
    return this.#tasks.find((task) => task.stage === stage && task.action === action)?.cost ?? 0;
  }
}
