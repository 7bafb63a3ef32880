/**
 * Extended Textual Inversion (P+): one embedding per word and cross-attention layer, nothing else. `kdeWeight` keeps them
 * where words lie.
 * Source: Voynov et al. 2023, P+ (2303.09522), section 3; the kernel density as in TencentARC/Mix-of-Show, losses.py.
 */
import type { TrainingMethod } from './method.ts';

export const xti: TrainingMethod = {
  name: 'xti',
  title: 'Extended Textual Inversion',
  source: 'Voynov et al. 2023, P+, arXiv 2303.09522',
  defaults: {
    rank: 1,
    alpha: 1,
    lrEmbedding: 5e-3,
    lrText: 0,
    lrUnet: 0,
    noiseOffset: 0,
    priorWeight: 0,
  },
  layerwise: true,
  needsWords: true,
  unet: 'none',
  text: false,
  alphaOverRank: false,
  detachFirstToken: false,
  prior: false,
};
