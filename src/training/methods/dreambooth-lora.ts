/**
 * DreamBooth on LoRA: a rare word in the captions calls the subject, pictures of its class that the base itself drew keep
 * the class as it was.
 * Source: Ruiz et al. 2022, DreamBooth (2208.12242), section 3.3 (prior preservation); diffusers, train_dreambooth_lora.py.
 */
import { lora } from './lora.ts';
import type { TrainingMethod } from './method.ts';

export const dreamboothLora: TrainingMethod = {
  ...lora,
  name: 'dreambooth-lora',
  title: 'DreamBooth on LoRA',
  source: 'Ruiz et al. 2022, DreamBooth, arXiv 2208.12242',
  defaults: { ...lora.defaults, lrText: 0, priorWeight: 1 },
  prior: true,
};
