/** A full-size Stable Diffusion 1.5 with random weights. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import {
  CLIP_VIT_L_TEXT,
  SD15_SCHEDULER,
  SD15_UNET,
  SD15_VAE,
} from '../../src/models/families/sd1-configs.ts';
import { defaultBase } from '../../src/package-root.ts';
import { ensureRandom, randomTextEncoder, randomUnet, randomVae, type Width } from './random-model.ts';

/** Its folder; made on the first call (3.9 GB as F32, about half a minute). */
export function ensureRandomModel(dtype: Width = 'F32'): Promise<string> {
  return ensureRandom(dtype, (width) => ({
    name: 'random-sd15',
    title: 'SD 1.5',
    index: JSON.parse(readFileSync(path.join(defaultBase(), 'model_index.json'), 'utf8')) as object,
    scheduler: SD15_SCHEDULER,
    tokenizers: ['tokenizer'],
    parts: {
      unet: randomUnet(SD15_UNET, width),
      text_encoder: randomTextEncoder(CLIP_VIT_L_TEXT, width),
      vae: randomVae(SD15_VAE, width),
    },
  }));
}
