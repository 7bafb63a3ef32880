/** What a deprojector is trained by. */
import { z } from 'zod';
import { UsageError } from '../errors.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { RATE_SCHEDULES } from '../optim/learning-rate.ts';
import { DEPROJECTOR_MODEL_NAMES, type DeprojectorModelName } from './models/index.ts';

const whole = (low: number, high: number): z.ZodInt => z.int().min(low).max(high);

export const deprojectorSettingsSchema = z.strictObject({
  model: z.enum(DEPROJECTOR_MODEL_NAMES as [DeprojectorModelName, ...DeprojectorModelName[]]),
  /** States before a position that vicinity models see. */
  vicinity: whole(1, 75).default(3),
  /** Times that every training prompt is seen. */
  epochs: whole(1, 100_000).default(8),
  /** Prompts of a step. */
  batch: whole(1, 4096).default(64),
  lr: z.number().positive().max(1).default(1e-3),
  schedule: z.enum(RATE_SCHEDULES as [(typeof RATE_SCHEDULES)[number]]).default('linear'),
  /** Steps over which the rate first rises from zero. */
  warmup: whole(0, 1_000_000).default(50),
  weightDecay: z.number().min(0).max(1).default(0),
  /** Spread of what is added to the true states that a position is made from, so that the model bears with its own. */
  noise: z.number().min(0).max(10).default(0),
  /** Spread of what is added to embeddings before they are brought to length 1 again, so that means between prompts are read, too. */
  blur: z.number().min(0).max(10).default(0),
  /**
   * Share of a step's prompts of which the model reads its own states alone; of the others its own from a random position on.
   * 0: it reads true states alone.
   */
  rollout: z.number().min(0).max(1).default(0),
  /** Share of prompts that are held out. */
  heldOut: z.number().min(0).max(0.9).default(0.1),
  seed: whole(-(2 ** 31), 2 ** 31).default(0),
  /** Steps between two saved states; 0: at the end alone. */
  saveEvery: whole(0, 1_000_000).default(100),
});

export type DeprojectorInput = z.input<typeof deprojectorSettingsSchema>;
export type DeprojectorSettings = z.output<typeof deprojectorSettingsSchema>;

/** Settings with their defaults. @throws {UsageError} naming each wrong one */
export function deprojectorSettings(input: DeprojectorInput): DeprojectorSettings {
  const parsed = safeParse(deprojectorSettingsSchema, input);
  if (parsed.success) return parsed.data;
  throw new UsageError(
    parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'settings'}: ${message}`).join('\n'),
  );
}
