/** The published configuration of Stable Diffusion 2.x. */
import type { ClipTextConfig } from '../clip/config.ts';
import type { UnetConfig } from '../unet/config.ts';
import { CLIP_VIT_L_TEXT, SD15_SCHEDULER, SD15_UNET } from './sd1-configs.ts';

/** Source: huggingface.co/stabilityai/stable-diffusion-2-1, unet/config.json */
export const SD2_UNET: UnetConfig = {
  ...SD15_UNET,
  blocks: SD15_UNET.blocks.map((block) => ({ ...block, numHeads: block.channels / 64 })),
  crossAttentionDim: 1024,
  linearProjection: true,
  sampleSize: 96,
};

/**
 * 23 of the 24 layers of OpenCLIP ViT-H/14; single files hold the last one too, which nothing reads.
 * Source: huggingface.co/stabilityai/stable-diffusion-2-1, text_encoder/config.json
 */
export const OPEN_CLIP_H_TEXT: ClipTextConfig = {
  ...CLIP_VIT_L_TEXT,
  hiddenSize: 1024,
  intermediateSize: 4096,
  numLayers: 23,
  numHeads: 16,
  hiddenAct: 'gelu',
};

/** Of the 768 models; the 512 ones predict epsilon. Source: the same, scheduler/scheduler_config.json */
export const SD2_SCHEDULER = {
  ...SD15_SCHEDULER,
  _class_name: 'DDIMScheduler',
  prediction_type: 'v_prediction',
} as const;
