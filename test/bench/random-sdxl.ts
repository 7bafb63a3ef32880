/** A full-size SDXL with random weights, in float16 as it is published. */
import { CLIP_VIT_L_TEXT } from '../../src/models/families/sd1-configs.ts';
import {
  OPEN_CLIP_BIGG_TEXT,
  SDXL_SCHEDULER,
  SDXL_UNET,
  SDXL_VAE,
} from '../../src/models/families/sdxl-configs.ts';
import { ensureRandom, randomTextEncoder, randomUnet, randomVae } from './random-model.ts';

/** Its folder; made on the first call (6.8 GB, about two minutes). */
export function ensureRandomSdxl(): Promise<string> {
  return ensureRandom('F16', (width) => ({
    name: 'random-sdxl',
    title: 'SDXL',
    index: {
      _class_name: 'StableDiffusionXLPipeline',
      force_zeros_for_empty_prompt: true,
      scheduler: ['diffusers', 'EulerDiscreteScheduler'],
      text_encoder: ['transformers', 'CLIPTextModel'],
      text_encoder_2: ['transformers', 'CLIPTextModelWithProjection'],
      tokenizer: ['transformers', 'CLIPTokenizer'],
      tokenizer_2: ['transformers', 'CLIPTokenizer'],
      unet: ['diffusers', 'UNet2DConditionModel'],
      vae: ['diffusers', 'AutoencoderKL'],
    },
    scheduler: SDXL_SCHEDULER,
    tokenizers: ['tokenizer', 'tokenizer_2'],
    parts: {
      unet: randomUnet(SDXL_UNET, width),
      text_encoder: randomTextEncoder(CLIP_VIT_L_TEXT, width),
      text_encoder_2: randomTextEncoder(OPEN_CLIP_BIGG_TEXT, width),
      vae: randomVae(SDXL_VAE, width),
    },
  }));
}
