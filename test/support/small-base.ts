/**
 * A base of Stable Diffusion 1.x for runs whose pictures nobody judges: the miniature's tokenizer, text encoder and VAE with a
 * UNet of random weights that has two levels instead of four. Building, loading and running it takes a fraction of the time.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultBase } from '../../src/package-root.ts';
import { randomWeights } from './random-weights.ts';

/** One on the way down, the middle, two on the way up. */
export const SMALL_CONTEXTS = 4;

const unetJson = {
  block_out_channels: [16, 32],
  down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  attention_head_dim: 4,
  cross_attention_dim: 64,
  norm_num_groups: 8,
  sample_size: 8,
};

/** Write it as a diffusers folder. */
export async function writeSmallBase(folder: string): Promise<void> {
  for (const part of ['model_index.json', 'tokenizer', 'scheduler', 'text_encoder', 'vae']) {
    cpSync(path.join(defaultBase(), part), path.join(folder, part), { recursive: true });
  }
  const { source, asked } = randomWeights(0.1);
  buildUnet(source, unetSchema.parse(unetJson), { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 77 });
  mkdirSync(path.join(folder, 'unet'));
  writeFileSync(path.join(folder, 'unet/config.json'), JSON.stringify(unetJson));
  const weights = path.join(folder, 'unet/diffusion_pytorch_model.safetensors');
  await writeSafetensors(weights, [...asked.values()]);
}
