/** Options of porting and their defaults. */
import { UsageError } from '../../errors.ts';
import { CONTEXTS } from '../contexts.ts';

export interface PortOptions {
  /** Rank of the answer of every key and value layer. Default 16, or what the layer can have. */
  readonly rank: number;
  /** β: weight of the captions, relative to the templates' energy. Default 1. */
  readonly preserve: number;
  /** λ, relative to the mean diagonal of the features' Gram matrix. Default 1e-3. */
  readonly ridge: number;
  /**
   * Gradient steps on the shared embeddings before keys and values are solved for, at most; 0: the layers' mean. Default 40: held-out
   * templates say when it is enough.
   */
  readonly steps: number;
  /** Steps of distillation after the solve, as a fusion's `refine`: the ported model learns to predict what the concepts' own models do. */
  readonly refine: number;
  /** Of the refinement's noise. */
  readonly seed: number;
  /** Prompts with `{}` for a concept's words. Every fourth is held out, and tells what was kept. */
  readonly templates: readonly string[];
}

export const PORT_DEFAULTS: PortOptions = {
  rank: 16,
  preserve: 1,
  ridge: 1e-3,
  steps: 40,
  refine: 0,
  seed: 0,
  templates: CONTEXTS,
};

/** Templates of which one is held out. */
const HELD_OUT_OF = 4;

/** Whether a template tells what was kept, and is not learnt from. @param index of it */
export function isHeldOut(index: number): boolean {
  return index % HELD_OUT_OF === HELD_OUT_OF - 1;
}

/** More takes longer than training anew. */
const MAX_STEPS = 100_000;

/** @throws {UsageError} naming the option, what is allowed, and what it got */
export function checkPortOptions(options: PortOptions): void {
  const { rank, preserve, ridge, steps, refine, seed, templates } = options;
  if (!(Number.isSafeInteger(rank) && rank >= 1)) {
    throw new UsageError(`rank: expected a whole number of 1 or more, got ${rank}`);
  }
  for (const [name, value] of Object.entries({ steps, refine })) {
    if (Number.isSafeInteger(value) && value >= 0 && value <= MAX_STEPS) continue;
    throw new UsageError(`${name}: expected a whole number from 0 to ${MAX_STEPS}, got ${value}`);
  }
  if (!Number.isSafeInteger(seed)) throw new UsageError(`seed: expected an integer, got ${seed}`);
  for (const [name, value] of Object.entries({ preserve, ridge })) {
    if (!(value >= 0 && value <= 1e4)) throw new UsageError(`${name}: expected 0 … 10000, got ${value}`);
  }
  if (ridge === 0) throw new UsageError('ridge: expected a number above 0, got 0');
  if (templates.length < HELD_OUT_OF || templates.some((text) => !text.includes('{}'))) {
    throw new UsageError(`templates: expected ${HELD_OUT_OF} or more, each with {} for the words`);
  }
}
