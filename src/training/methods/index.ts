/** All training methods: the command line, the docs and the settings read this table. */
import type { TrainingMethodName } from '../options.ts';
import { customDiffusion } from './custom-diffusion.ts';
import { dreamboothLora } from './dreambooth-lora.ts';
import { edLora } from './ed-lora.ts';
import { lora } from './lora.ts';
import type { TrainingMethod } from './method.ts';
import { textualInversion } from './textual-inversion.ts';
import { xti } from './xti.ts';

export const TRAINING_METHODS: Readonly<Record<TrainingMethodName, TrainingMethod>> = {
  'ed-lora': edLora,
  'textual-inversion': textualInversion,
  xti,
  lora,
  'custom-diffusion': customDiffusion,
  'dreambooth-lora': dreamboothLora,
};
