/**
 * Custom Diffusion: K and V of cross-attention as a whole, one new word, and pictures of its class. Keys and values of the
 * first text token get no gradient. The file holds the change as factors of `rank` (the paper compresses it too).
 * Source: Kumari et al. 2022, Custom Diffusion (2212.04488), section 3.1; adobe-research/custom-diffusion,
 * src/diffusers_training.py.
 */
import type { TrainingMethod } from './method.ts';

export const customDiffusion: TrainingMethod = {
  name: 'custom-diffusion',
  title: 'Custom Diffusion',
  source: 'Kumari et al. 2022, Custom Diffusion, arXiv 2212.04488',
  defaults: {
    rank: 64,
    alpha: 1,
    lrEmbedding: 1e-5,
    lrText: 0,
    lrUnet: 1e-5,
    noiseOffset: 0,
    priorWeight: 1,
  },
  layerwise: false,
  needsWords: true,
  unet: 'keys-values',
  text: false,
  alphaOverRank: false,
  detachFirstToken: true,
  prior: true,
};
