/** Stable Diffusion XL: its adapters are read, written, merged and baked; its models are not drawn with. */
import type { ClipTextConfig } from '../clip/config.ts';
import { ldmStructureOf, ldmUnetNames } from '../keys/ldm.ts';
import { withTextModel } from '../keys/module-path.ts';
import { openClipNames } from '../keys/open-clip.ts';
import { belowPrefix, oneName } from '../keys/read-names.ts';
import type { UnetConfig } from '../unet/config.ts';
import { blockNames, range } from './blocks.ts';
import type { AdapterFamily } from './family.ts';
import { CLIP_VIT_L_TEXT, CLIP_VIT_L_WITH_PROJECTION } from './sd1-configs.ts';

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
  normGroups: 32,
  normEpsilon: 1e-5,
  flipSinToCos: true,
  frequencyShift: 0,
  sampleSize: 128,
};

/** The second text encoder. Source: the same, text_encoder_2/config.json (OpenCLIP ViT-bigG/14). */
const OPEN_CLIP_BIGG_TEXT: ClipTextConfig = {
  ...CLIP_VIT_L_TEXT,
  hiddenSize: 1280,
  intermediateSize: 5120,
  numLayers: 32,
  numHeads: 20,
  hiddenAct: 'gelu',
  projectionDim: 1280,
};

export const sdxl: AdapterFamily = {
  name: 'sdxl',
  title: 'SDXL',
  shortTitle: 'SDXL',
  signs: {
    names: [
      /^lora_te2[._]|^(params\.)?(text_encoder|new_concept_embedding)_2\.|^(text_encoders\.)?clip_g\.|^conditioner\.embedders\./,
      /(^|[._])(add_embedding|class_embedding|label_emb)[._]/,
      /(attentions|blocks|middle_block)([._]\d+)+[._]transformer_blocks[._]([1-9]|\d\d)[._]/,
    ],
    titles: /sd[ _-]?xl|stable[ _-]diffusion[ _-]xl|\bxl\b|pony|illustrious|noob/i,
    pipelines: /XL/,
    contextWidth: 2048,
    wordWidth: 1280,
  },
  blockNames: new Map([
    [12, blockNames([4, 5, 7, 8], range(0, 5))],
    [20, blockNames(range(0, 8), range(0, 8))],
  ]),
  blockOf: null,
  adapters: {
    unet: SDXL_UNET,
    textEncoders: { text_encoder: CLIP_VIT_L_WITH_PROJECTION, text_encoder_2: OPEN_CLIP_BIGG_TEXT },
    kohyaPrefixes: { unet: 'lora_unet_', text_encoder: 'lora_te1_', text_encoder_2: 'lora_te2_' },
    kohyaNumbering: 'ldm',
    anyDepth: false,
    conceptFiles: ['ed-lora'],
    singleFile: {
      unet: oneName(ldmUnetNames(ldmStructureOf(SDXL_UNET)).fromLdm),
      text_encoder: belowPrefix('conditioner.embedders.0.transformer.', withTextModel),
      text_encoder_2: openClipNames('conditioner.embedders.1.model.'),
    },
    kohyaVersion: 'sdxl_base_v1-0',
    modelspec: {
      'modelspec.architecture': 'stable-diffusion-xl-v1-base/lora',
      'modelspec.implementation': 'https://github.com/Stability-AI/generative-models',
    },
  },
  base: null,
};
