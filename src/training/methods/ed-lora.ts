/**
 * ED-LoRA: embeddings per word and cross-attention layer together with LoRA on the attention of both networks. The
 * factors' product is used undivided (alpha 1).
 * Source: Gu et al. 2023, Mix-of-Show (2305.18292), section 4.1; defaults of TencentARC/Mix-of-Show, options/train/EDLoRA.
 */
import type { TrainingMethod } from './method.ts';

export const edLora: TrainingMethod = {
  name: 'ed-lora',
  title: 'ED-LoRA',
  source: 'Gu et al. 2023, Mix-of-Show, arXiv 2305.18292',
  defaults: {
    rank: 4,
    alpha: 1,
    lrEmbedding: 1e-3,
    lrText: 1e-5,
    lrUnet: 1e-4,
    noiseOffset: 0.01,
    priorWeight: 0,
  },
  layerwise: true,
  needsWords: true,
  unet: 'factors',
  text: true,
  alphaOverRank: false,
  detachFirstToken: false,
  prior: false,
};
