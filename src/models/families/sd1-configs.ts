/** The published configuration of Stable Diffusion 1.x, which most of its models share. */
import type { ClipTextConfig } from '../clip/config.ts';
import type { UnetBlockConfig, UnetConfig } from '../unet/config.ts';
import type { VaeConfig } from '../vae/config.ts';

const block = (channels: number, crossAttention: boolean): UnetBlockConfig => ({
  channels,
  crossAttention,
  numHeads: 8,
});

/** Source: huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, unet/config.json */
export const SD15_UNET: UnetConfig = {
  inChannels: 4,
  outChannels: 4,
  blocks: [block(320, true), block(640, true), block(1280, true), block(1280, false)],
  layersPerBlock: 2,
  crossAttentionDim: 768,
  normGroups: 32,
  normEpsilon: 1e-5,
  flipSinToCos: true,
  frequencyShift: 0,
  sampleSize: 64,
};

/** The text encoder of SD 1.x. Source: huggingface.co/openai/clip-vit-large-patch14, config.json, text_config. */
export const CLIP_VIT_L_TEXT: ClipTextConfig = {
  hiddenSize: 768,
  intermediateSize: 3072,
  numLayers: 12,
  numHeads: 12,
  maxPositions: 77,
  hiddenAct: 'quick_gelu',
  layerNormEpsilon: 1e-5,
  eosTokenId: 2,
};

/** The same with the projection that CLIP has and no base stores; ComfyUI gives it a name, so adapters may change it. */
export const CLIP_VIT_L_WITH_PROJECTION: ClipTextConfig = { ...CLIP_VIT_L_TEXT, projectionDim: 768 };

/** Source: huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, vae/config.json */
export const SD15_VAE: VaeConfig = {
  inChannels: 3,
  outChannels: 3,
  latentChannels: 4,
  blockChannels: [128, 256, 512, 512],
  layersPerBlock: 2,
  normGroups: 32,
  scalingFactor: 0.18215,
  quantConv: true,
  postQuantConv: true,
  midAttention: true,
};

/** Source: huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, scheduler/scheduler_config.json */
export const SD15_SCHEDULER = {
  _class_name: 'PNDMScheduler',
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  beta_start: 0.00085,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  clip_sample: false,
} as const;
