/**
 * Predictions that a refinement does not learn from: other seeds, and of concepts other prompts. They show whether it learned
 * anything. They do not choose the step: losses fall by ways that lose concepts too (docs/fusion.md).
 */
import type { LayerDeltas } from '../../models/lora.ts';
import type { HeldOutCheck } from '../best-check.ts';
import type { RefineState, Rollouts } from './refine-states.ts';

/** States of one teacher. */
export interface HeldOutStates {
  readonly states: readonly RefineState[];
  /** Share of the steps that are this teacher's. */
  readonly share: number;
}

export class HeldOut {
  readonly #rollouts: Rollouts;
  readonly #teachers: readonly HeldOutStates[];
  readonly #weight: (timestep: number) => number;
  /** In the order in which they were made: the loss that the steps minimise, on these predictions. */
  readonly checks: HeldOutCheck[] = [];

  /** @param weight of a state in the loss, by its timestep */
  constructor(rollouts: Rollouts, teachers: readonly HeldOutStates[], weight: (timestep: number) => number) {
    this.#rollouts = rollouts;
    this.#teachers = teachers;
    this.#weight = weight;
  }

  /** Look at a model after so many steps. */
  async look(step: number, model: LayerDeltas): Promise<void> {
    this.checks.push({ step, error: await this.#error(model) });
  }

  /** Whether the last look found less error than the first. */
  get hasImproved(): boolean {
    return this.checks.at(-1)!.error < this.checks[0]!.error;
  }

  async #error(model: LayerDeltas): Promise<number> {
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

/**
 * So many states, picture by picture in turn, spread over all of their steps.
 * @param drawn step by step
 */
export function spreadOver(drawn: readonly RefineState[], pictures: number, count: number): RefineState[] {
  const steps = drawn.length / pictures;
  return Array.from({ length: count }, (_, i) => {
    const step = Math.floor(((i + 0.5) * steps) / count);
    return drawn[step * pictures + (i % pictures)]!;
  });
}
