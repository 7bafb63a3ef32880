/**
 * LoRA on attention, optionally on feed-forward layers and 3×3 convolutions (LoCon), as LoRA, LoHa or DyLoRA factors. New
 * words are optional; alpha is divided by the rank.
 * Source: Hu et al. 2021, LoRA (2106.09685); LoHa: Hyeon-Woo et al. 2021 (2108.06098) and LyCORIS; DyLoRA: Valipour et al.
 * 2022 (2210.07558).
 */
import type { TrainingMethod } from './method.ts';

export const lora: TrainingMethod = {
  name: 'lora',
  title: 'LoRA',
  source: 'Hu et al. 2021, LoRA, arXiv 2106.09685',
  defaults: {
    rank: 4,
    alpha: 4,
    lrEmbedding: 1e-3,
    lrText: 1e-5,
    lrUnet: 1e-4,
    noiseOffset: 0,
    priorWeight: 0,
  },
  layerwise: false,
  needsWords: false,
  unet: 'factors',
  text: true,
  alphaOverRank: true,
  detachFirstToken: false,
  prior: false,
};
