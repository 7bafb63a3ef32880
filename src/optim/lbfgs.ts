/**
 * L-BFGS with a strong Wolfe line search: minimises a smooth function from its values and gradients.
 *
 * Behaves as torch.optim.LBFGS does with lr 1 and line_search_fn 'strong_wolfe' (torch 2.13): the same first step,
 * curvature test, cubic interpolation, budget of evaluations and stopping rules, so that equal arithmetic takes an
 * equal path. Method: Nocedal & Wright, Numerical Optimization, 2nd ed., algorithms 3.5, 3.6 and 7.5.
 */
import { NumericalError, UsageError } from '../errors.ts';
import { addScaled, dot } from '../linalg/products.ts';
import { inOneGo, type Steps } from '../pace.ts';

export interface Evaluation {
  readonly loss: number;
  /** df/dx, a new array at each call. */
  readonly gradient: Float64Array;
}

export interface Objective {
  /** f and its gradient at x, at once or in steps; must not keep or change x. */
  evaluate(x: Float64Array): Evaluation | Steps<Evaluation>;
  /**
   * Whether max|vᵢ| ≤ bound, and Σ|vᵢ|, in the coordinates that the stopping rules and the first step are stated in.
   * Give them where x are other coordinates of the same Euclidean space. Default: of v itself.
   */
  readonly isWithin?: (v: Float64Array, bound: number) => boolean;
  readonly sumAbs?: (v: Float64Array) => number;
}

export interface LbfgsOptions {
  /** ≥ 1. Example: 50. */
  readonly maxIterations: number;
  /** Pairs of steps and gradient changes kept; ≥ 1. Default 25. */
  readonly history?: number;
  /** Stop once max|gᵢ| is at most this. Default 1e-7. */
  readonly toleranceGradient?: number;
  /** Stop once the largest change of an element, the change of f, or the slope is below this. Default 1e-9. */
  readonly toleranceChange?: number;
  /** Evaluations of f, the first included. Default: ⌊maxIterations · 5 / 4⌋, torch's. */
  readonly maxEvaluations?: number;
}

/** Which rule ended the minimisation. */
export type StopReason = 'iterations' | 'evaluations' | 'gradient' | 'slope' | 'step' | 'loss';

export interface LbfgsResult {
  /** The point of lowest f among all that were evaluated, trial points of the line search included. */
  readonly x: Float64Array;
  readonly loss: number;
  /** f before the first iteration, then after each. */
  readonly losses: readonly number[];
  readonly evaluations: number;
  readonly stopped: StopReason;
}

/** A point on the search line: x + step · direction. */
interface Trial extends Evaluation {
  readonly step: number;
  /** Derivative along the direction. */
  readonly slope: number;
}

const SUFFICIENT_DECREASE = 1e-4;
const CURVATURE = 0.9;
/** Pairs with sᵀy below this are not learned from. */
const LEAST_CURVATURE = 1e-10;
/** The line search gives up when its bracket is this short (times the direction's largest element). */
const SHORTEST_BRACKET = 1e-9;

/**
 * Minimise `objective` from `start` (not changed).
 *
 * @throws {UsageError} if a count is not a whole number ≥ 1
 * @throws {NumericalError} if f or its slope is not finite at a point
 */
export function lbfgs(objective: Objective, start: Float64Array, options: LbfgsOptions): LbfgsResult {
  return inOneGo(lbfgsSteps(objective, start, options));
}

/** `lbfgs` in steps: one an evaluation, or more where those have steps of their own. */
export function* lbfgsSteps(
  objective: Objective,
  start: Float64Array,
  options: LbfgsOptions,
): Steps<LbfgsResult> {
  const { maxIterations, history = 25, toleranceGradient = 1e-7, toleranceChange = 1e-9 } = options;
  const maxEvaluations = options.maxEvaluations ?? Math.floor((maxIterations * 5) / 4);
  for (const [name, value] of Object.entries({ maxIterations, history, maxEvaluations })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new UsageError(`L-BFGS ${name}: expected a whole number of 1 or more, got ${value}`);
    }
  }
  const isWithin = objective.isWithin ?? ((v, bound) => v.every((value) => Math.abs(value) <= bound));
  const sumAbs = objective.sumAbs ?? sumOfMagnitudes;

  let evaluations = 0;
  let best: { x: Float64Array; loss: number } = { x: start, loss: Number.POSITIVE_INFINITY };
  const evaluate = function* (x: Float64Array): Steps<Evaluation> {
    yield;
    const found = objective.evaluate(x);
    const evaluation = 'loss' in found ? found : yield* found;
    evaluations++;
    if (!Number.isFinite(evaluation.loss)) {
      throw new NumericalError(
        `L-BFGS: expected a finite loss at evaluation ${evaluations}, got ${evaluation.loss}`,
        { value: evaluation.loss },
      );
    }
    if (evaluation.loss < best.loss) best = { x, loss: evaluation.loss };
    return evaluation;
  };

  let x = Float64Array.from(start);
  let here = yield* evaluate(x);
  const losses = [here.loss];
  const finish = (stopped: StopReason): LbfgsResult => ({ ...best, losses, evaluations, stopped });
  if (isWithin(here.gradient, toleranceGradient)) return finish('gradient');

  const memory = new CurvatureMemory(history);
  for (let iteration = 1; ; iteration++) {
    const direction = memory.descentDirection(here.gradient);
    const slope = dot(here.gradient, 0, direction, 0, direction.length);
    if (!Number.isFinite(slope)) {
      throw new NumericalError(`L-BFGS: expected a finite slope at iteration ${iteration}, got ${slope}`, {
        value: slope,
      });
    }
    if (slope > -toleranceChange) return finish('slope');
    // Without curvature known, the first step moves by at most 1 in the sum of magnitudes.
    const firstStep = iteration === 1 ? Math.min(1, 1 / sumAbs(here.gradient)) : 1;
    const from = x;
    const along = function* (step: number): Steps<Trial> {
      const evaluation = yield* evaluate(moved(from, step, direction));
      return { ...evaluation, step, slope: dot(evaluation.gradient, 0, direction, 0, direction.length) };
    };
    const reached = yield* strongWolfe(along, { ...here, step: 0, slope }, firstStep, {
      maxTrials: maxEvaluations - evaluations,
      isWithin: (bound) => isWithin(direction, bound),
    });
    x = moved(from, reached.step, direction);
    const before = here;
    here = reached;
    losses.push(here.loss);

    if (iteration === maxIterations) return finish('iterations');
    if (evaluations >= maxEvaluations) return finish('evaluations');
    if (isWithin(here.gradient, toleranceGradient)) return finish('gradient');
    const step = direction.map((value) => value * reached.step);
    if (isWithin(step, toleranceChange)) return finish('step');
    if (Math.abs(here.loss - before.loss) < toleranceChange) return finish('loss');
    memory.learn(step, moved(here.gradient, -1, before.gradient));
  }
}

/** The last pairs of steps s and gradient changes y: an approximate inverse Hessian. */
class CurvatureMemory {
  readonly #capacity: number;
  readonly #pairs: { step: Float64Array; change: Float64Array; inverseCurvature: number }[] = [];
  #scale = 1;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  learn(step: Float64Array, change: Float64Array): void {
    const curvature = dot(step, 0, change, 0, step.length);
    if (!(curvature > LEAST_CURVATURE)) return;
    if (this.#pairs.length === this.#capacity) this.#pairs.shift();
    this.#pairs.push({ step, change, inverseCurvature: 1 / curvature });
    this.#scale = curvature / dot(change, 0, change, 0, change.length);
  }

  /** −H g by the two-loop recursion. */
  descentDirection(gradient: Float64Array): Float64Array {
    const length = gradient.length;
    const direction = gradient.map((value) => -value);
    const weights = new Float64Array(this.#pairs.length);
    for (let i = this.#pairs.length - 1; i >= 0; i--) {
      const { step, change, inverseCurvature } = this.#pairs[i]!;
      weights[i] = dot(step, 0, direction, 0, length) * inverseCurvature;
      addScaled(-weights[i]!, change, 0, direction, 0, length);
    }
    for (let j = 0; j < length; j++) direction[j]! *= this.#scale;
    this.#pairs.forEach(({ step, change, inverseCurvature }, i) => {
      const correction = dot(change, 0, direction, 0, length) * inverseCurvature;
      addScaled(weights[i]! - correction, step, 0, direction, 0, length);
    });
    return direction;
  }
}

interface LineSearchLimits {
  /** Trials after the first. */
  readonly maxTrials: number;
  /** Whether no element of the direction is larger than `bound`. */
  readonly isWithin: (bound: number) => boolean;
}

/**
 * A step with sufficient decrease and a flat enough slope; or the best end of the bracket when trials or room run out.
 * First steps out until a bracket encloses such a point, then narrows the bracket.
 */
function* strongWolfe(
  along: (step: number) => Steps<Trial>,
  origin: Trial,
  firstStep: number,
  { maxTrials, isWithin }: LineSearchLimits,
): Steps<Trial> {
  const decreases = ({ loss, step }: Trial) =>
    loss <= origin.loss + SUFFICIENT_DECREASE * step * origin.slope;
  const isFlat = ({ slope }: Trial) => Math.abs(slope) <= -CURVATURE * origin.slope;

  let previous = origin;
  let trial = yield* along(firstStep);
  let trials = 0;
  let ends: [Trial, Trial] | null = null;
  while (trials < maxTrials && ends === null) {
    if (!decreases(trial) || (trials > 1 && trial.loss >= previous.loss)) ends = [previous, trial];
    else if (isFlat(trial)) return trial;
    else if (trial.slope >= 0) ends = [previous, trial];
    else {
      const nearest = trial.step + 0.01 * (trial.step - previous.step);
      const next = cubicMinimum(previous, trial, nearest, 10 * trial.step);
      previous = trial;
      trial = yield* along(next);
      trials++;
    }
  }
  ends ??= [origin, trial];

  let low: 0 | 1 = ends[0].loss <= ends[1].loss ? 0 : 1;
  let nearEnd = false;
  while (trials < maxTrials) {
    const nearest = Math.min(ends[0].step, ends[1].step);
    const farthest = Math.max(ends[0].step, ends[1].step);
    if (isWithin(SHORTEST_BRACKET / (farthest - nearest))) break;
    let step = cubicMinimum(ends[0], ends[1], nearest, farthest);
    // Twice in a row close to an end, or on it: look a tenth of the bracket further in.
    const margin = 0.1 * (farthest - nearest);
    if (Math.min(farthest - step, step - nearest) >= margin) {
      nearEnd = false;
    } else if (nearEnd || step >= farthest || step <= nearest) {
      step = farthest - step < step - nearest ? farthest - margin : nearest + margin;
      nearEnd = false;
    } else {
      nearEnd = true;
    }
    trial = yield* along(step);
    trials++;
    const high = low === 0 ? 1 : 0;
    if (!decreases(trial) || trial.loss >= ends[low].loss) {
      ends[high] = trial;
      low = ends[0].loss <= ends[1].loss ? 0 : 1;
    } else {
      if (isFlat(trial)) return trial;
      if (trial.slope * (ends[high].step - ends[low].step) >= 0) ends[high] = ends[low];
      ends[low] = trial;
    }
  }
  return ends[low];
}

/** Where the cubic through both ends' values and slopes is lowest, kept within bounds; their middle if it has no minimum. */
function cubicMinimum(a: Trial, b: Trial, lower: number, upper: number): number {
  const [near, far] = a.step <= b.step ? [a, b] : [b, a];
  const d1 = near.slope + far.slope - (3 * (near.loss - far.loss)) / (near.step - far.step);
  const square = d1 * d1 - near.slope * far.slope;
  const d2 = Math.sqrt(square);
  const minimum =
    far.step - (far.step - near.step) * ((far.slope + d2 - d1) / (far.slope - near.slope + 2 * d2));
  if (!(square >= 0) || Number.isNaN(minimum)) return (lower + upper) / 2;
  return Math.min(Math.max(minimum, lower), upper);
}

/** x + factor · v. */
function moved(x: Float64Array, factor: number, v: Float64Array): Float64Array<ArrayBuffer> {
  const result = Float64Array.from(x);
  addScaled(factor, v, 0, result, 0, v.length);
  return result;
}

function sumOfMagnitudes(v: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < v.length; i++) sum += Math.abs(v[i]!);
  return sum;
}
