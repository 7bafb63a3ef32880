/** The published configuration of Stable Diffusion XL. */
import type { ClipTextConfig } from '../clip/config.ts';
import type { UnetConfig } from '../unet/config.ts';
import type { VaeConfig } from '../vae/config.ts';
import { CLIP_VIT_L_TEXT, SD15_SCHEDULER, SD15_VAE } from './sd1-configs.ts';

/** Source: huggingface.co/stabilityai/stable-diffusion-xl-base-1.0, unet/config.json */
export const SDXL_UNET: UnetConfig = {
  inChannels: 4,
  outChannels: 4,
  blocks: [
    { channels: 320, crossAttention: false, numHeads: 5 },
    { channels: 640, crossAttention: true, numHeads: 10, transformerDepth: 2 },
    { channels: 1280, crossAttention: true, numHeads: 20, transformerDepth: 10 },
  ],
  layersPerBlock: 2,
  crossAttentionDim: 2048,
  linearProjection: true,
  addedInputs: 2816,
  sizeEmbeddingDim: 256,
  normGroups: 32,
  normEpsilon: 1e-5,
  flipSinToCos: true,
  frequencyShift: 0,
  sampleSize: 128,
};

/** The second text encoder. Source: the same, text_encoder_2/config.json (OpenCLIP ViT-bigG/14). */
export const OPEN_CLIP_BIGG_TEXT: ClipTextConfig = {
  ...CLIP_VIT_L_TEXT,
  hiddenSize: 1280,
  intermediateSize: 5120,
  numLayers: 32,
  numHeads: 20,
  hiddenAct: 'gelu',
  projectionDim: 1280,
};

/** Source: the same, vae/config.json */
export const SDXL_VAE: VaeConfig = { ...SD15_VAE, scalingFactor: 0.13025 };

/** Source: the same, scheduler/scheduler_config.json */
export const SDXL_SCHEDULER = {
  ...SD15_SCHEDULER,
  _class_name: 'EulerDiscreteScheduler',
  timestep_spacing: 'leading',
  prediction_type: 'epsilon',
} as const;
