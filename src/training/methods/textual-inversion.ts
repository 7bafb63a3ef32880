/**
 * Textual Inversion: nothing but the embeddings of new words, the same in every layer. `vectors`, `progressive`,
 * `perImageTokens`, `classWeight` and `templates` are the paper's variants.
 * Source: Gal et al. 2022, An Image is Worth One Word (2208.01618), sections 4 and 5.3 (ablations).
 */
import type { TrainingMethod } from './method.ts';

export const textualInversion: TrainingMethod = {
  name: 'textual-inversion',
  title: 'Textual Inversion',
  source: 'Gal et al. 2022, Textual Inversion, arXiv 2208.01618',
  defaults: {
    rank: 1,
    alpha: 1,
    lrEmbedding: 5e-3,
    lrText: 0,
    lrUnet: 0,
    noiseOffset: 0,
    priorWeight: 0,
  },
  layerwise: false,
  needsWords: true,
  unet: 'none',
  text: false,
  alphaOverRank: false,
  detachFirstToken: false,
  prior: false,
};
