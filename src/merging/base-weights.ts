/** The weights of an opened model, by layer. */
import type { Checkpoint } from '../models/checkpoint.ts';
import type { BaseWeights } from './delta.ts';

/** Base weights of Stable Diffusion 1.x; layers of SDXL's second text encoder are not there. */
export function baseWeightsOf(checkpoint: Checkpoint): BaseWeights {
  return ({ component, layerName }) => {
    if (component === 'text_encoder_2') return undefined;
    const { weights } = component === 'unet' ? checkpoint.unet : checkpoint.textEncoder;
    return weights.get(`${layerName}.weight`);
  };
}
