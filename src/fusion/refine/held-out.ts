/**
 * Predictions that a refinement does not learn from: other seeds and other prompts. They say which step was the best, and when
 * it is enough.
 */
import type { GuidedModel, RefineState, Rollouts } from './refine-states.ts';

/** A look at them. */
export interface RefineCheck {
  /** Steps done; 0 is the start. */
  readonly step: number;
  /** The loss that the steps minimise, on these predictions. */
  readonly error: number;
}

/** States of one teacher. */
export interface HeldOutStates {
  readonly states: readonly RefineState[];
  /** Share of the rows that this teacher has in a batch. */
  readonly share: number;
}

/** Looks in a row without a better one that are enough. */
const PATIENCE = 2;

export class HeldOut {
  readonly #rollouts: Rollouts;
  readonly #teachers: readonly HeldOutStates[];
  readonly #weight: (timestep: number) => number;
  /** In the order in which they were made. */
  readonly checks: RefineCheck[] = [];
  #best: RefineCheck = { step: 0, error: Number.POSITIVE_INFINITY };

  /** @param weight of a state in the loss, by its timestep */
  constructor(rollouts: Rollouts, teachers: readonly HeldOutStates[], weight: (timestep: number) => number) {
    this.#rollouts = rollouts;
    this.#teachers = teachers;
    this.#weight = weight;
  }

  /** Look at a model after so many steps. @returns whether it is the best so far */
  async look(step: number, model: GuidedModel): Promise<boolean> {
    const check = { step, error: await this.#error(model) };
    this.checks.push(check);
    const isBetter = check.error < this.#best.error;
    if (isBetter) this.#best = check;
    return isBetter;
  }

  /** Whether the last looks found nothing better. */
  get isEnough(): boolean {
    return this.checks.length > PATIENCE && this.checks.at(-PATIENCE - 1)!.step >= this.#best.step;
  }

  async #error(model: GuidedModel): Promise<number> {
    let total = 0;
    for (const { states, share } of this.#teachers) {
      const predicted = await this.#rollouts.predict(states, model);
      states.forEach(({ target, timestep }, i) => {
        const squares = target.reduce((sum, value, k) => sum + (predicted[i]![k]! - value) ** 2, 0);
        total += (share * this.#weight(timestep) * squares) / (target.length * states.length);
      });
    }
    return total;
  }
}

/** As many states as pictures were drawn together, one of each, from all of their steps. @param drawn step by step */
export function spreadOver(drawn: readonly RefineState[], pictures: number): RefineState[] {
  const steps = drawn.length / pictures;
  return Array.from({ length: pictures }, (_, i) => {
    const step = Math.floor(((i + 0.5) * steps) / pictures);
    return drawn[step * pictures + i]!;
  });
}
