/** What a refinement begins with, whom it follows, and what it gives back. */
import { ShapeError, UsageError } from '../../errors.ts';
import type { LowRank } from '../../linalg/low-rank.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { LayerDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import type { SchedulerConfig } from '../../sampling/scheduler-config.ts';
import type { HeldOutCheck } from '../best-check.ts';
import type { LatentSize } from '../prompt-reader.ts';
import type { PromptReading } from './prompt-reading.ts';
import type { RefineOptions } from './refine-options.ts';
import type { RefinePrompt } from './refine-states.ts';

/** A model to be imitated: a concept's own, or the base (no deltas) for generic captions. */
export interface Teacher {
  /** For messages and progress. */
  readonly name: string;
  /** Of the UNet's layers. */
  readonly deltas: LayerDeltas;
  /** At least one; drawn in turn. */
  readonly prompts: readonly RefinePrompt[];
  /** Prompts by which the result is judged, from other seeds. Default none: the last step counts. */
  readonly heldOut?: readonly RefinePrompt[];
}

export interface RefineRequest {
  readonly base: Checkpoint;
  /** Of the latents that are drawn and compared. Default: those that the base was trained at. */
  readonly size?: LatentSize;
  /** Noise schedule of the base, for DPM-Solver. */
  readonly schedule: SchedulerConfig;
  /** Layers of the UNet to refine, with the factors to begin with. Ranks stay. */
  readonly start: LayerDeltas;
  /** Changes of other layers of the UNet, which stay as they are. Default none. */
  readonly fixed?: LayerDeltas;
  /** No prompt, as the base (`own`) and the refined model (`fused`) read it. Without guidance nothing reads it. */
  readonly noPrompt: RefinePrompt;
  readonly concepts: readonly Teacher[];
  /** The base with generic captions; null preserves nothing. */
  readonly preserved: Teacher | null;
  /** What is left out takes its value from `REFINE_DEFAULTS`. */
  readonly options?: Partial<RefineOptions>;
  readonly execution?: ExecutionContext<RefineProgress>;
}

export interface RefineProgress {
  readonly action: 'draw' | 'step';
  /** Whose picture is drawn, or the step's number. */
  readonly subject: string;
  readonly done: number;
  readonly total: number;
}

export interface Refinement {
  /** The refined layers, in the order of `start`. */
  readonly layers: ReadonlyMap<string, LowRank>;
  /** Loss of every step before its update: mean weighted square over the batch's latent cells. */
  readonly losses: readonly number[];
  /** The same on held-out predictions, where it was looked at. Empty without any. */
  readonly checks: readonly HeldOutCheck[];
}

/**
 * Check that everything fits the base.
 * @throws {UsageError} for no concepts, layers or prompts; {ShapeError} if deltas or text features do not fit
 */
export function checkRequest({ base, start, fixed, noPrompt, concepts, preserved }: RefineRequest): void {
  if (start.size === 0) throw new UsageError('refine: expected at least one layer');
  if (concepts.length === 0) throw new UsageError('refine: expected at least one concept');
  for (const [layerName, { up, down }] of start) {
    const { m, n } = base.parts.unet.layers.get(layerName) ?? { m: 0, n: 0 };
    if (up.rows !== m || down.cols !== n) {
      throw new ShapeError(`refine: ${layerName}: expected [${m}, ${n}], got [${up.rows}, ${down.cols}]`);
    }
    if (fixed?.has(layerName))
      throw new UsageError(`refine: ${layerName}: expected either to refine it or to keep it, got both`);
  }
  const { maxPositions } = base.parts;
  const expected = [
    1,
    base.parts.layers.contextCount,
    maxPositions,
    base.parts.unet.config.crossAttentionDim,
  ];
  const check = (where: string, { conditioning }: PromptReading): void => {
    const { shape } = conditioning.context;
    if (shape.join() !== expected.join()) {
      throw new ShapeError(
        `refine: ${where}: expected text features [${expected.join(', ')}], got [${shape.join(', ')}]`,
      );
    }
  };
  check('no prompt', noPrompt.own);
  check('no prompt', noPrompt.fused);
  for (const { name, prompts, heldOut = [] } of [...concepts, ...(preserved ? [preserved] : [])]) {
    if (prompts.length === 0) throw new UsageError(`refine: ${name}: expected at least one prompt`);
    for (const prompt of [...prompts, ...heldOut]) {
      check(name, prompt.own);
      check(name, prompt.fused);
    }
  }
}
