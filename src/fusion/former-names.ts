/** Names of earlier versions in recorded recipes, read as those that stand for them now. */
import { z } from 'zod';
import { loraNamings } from '../concepts/lora-file.ts';
import { fusionOptionsSchema } from './options.ts';

/** Key names of the LoRA that a fusion wrote. */
export const recordedNaming = z.preprocess(
  (value) => (value === 'edlora' ? 'ed-lora' : value),
  z.enum(loraNamings),
);

/** Options of a fusion. */
export const recordedOptions = z.preprocess((value) => {
  if (typeof value !== 'object' || value === null || !('solver' in value)) return value;
  const { solver, ...rest } = value;
  return { method: solver, ...rest };
}, fusionOptionsSchema);
