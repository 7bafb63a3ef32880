/** Stable Diffusion XL, whole: two text encoders, one of them with a pooled output, and sizes that the UNet reads. */
import { textLayers } from '../clip/changeable-layers.ts';
import { clipTextWithProjectionSchema } from '../clip/config.ts';
import { readConfig } from '../config-file.ts';
import { ldmStructureOf, ldmUnetNames } from '../keys/ldm.ts';
import { withTextModel } from '../keys/module-path.ts';
import { openClipNames } from '../keys/open-clip.ts';
import { belowPrefix, oneName } from '../keys/read-names.ts';
import { blockNames, range } from './blocks.ts';
import type { BaseFamily, Family } from './family.ts';
import { foreign } from './foreign.ts';
import { sd1 } from './sd1.ts';
import { CLIP_VIT_L_WITH_PROJECTION } from './sd1-configs.ts';
import { OPEN_CLIP_BIGG_TEXT, SDXL_SCHEDULER, SDXL_UNET, SDXL_VAE } from './sdxl-configs.ts';
import { SDXL_READING, sdxlTokenEncoder } from './sdxl-token-encoder.ts';

const FIRST_PREFIX = 'conditioner.embedders.0.transformer.';
const SECOND_PREFIX = 'conditioner.embedders.1.model.';
const [text] = sd1.base.textEncoders;

export const sdxl: BaseFamily = {
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
    anyDepth: true,
    conceptFiles: ['ed-lora'],
    singleFile: {
      unet: oneName(ldmUnetNames(ldmStructureOf(SDXL_UNET)).fromLdm),
      text_encoder: belowPrefix(FIRST_PREFIX, withTextModel),
      text_encoder_2: openClipNames(SECOND_PREFIX),
    },
    kohyaVersion: 'sdxl_base_v1-0',
    modelspec: {
      'modelspec.architecture': 'stable-diffusion-xl-v1-base/lora',
      'modelspec.implementation': 'https://github.com/Stability-AI/generative-models',
    },
  },
  base: {
    ...sd1.base,
    unet: { ...sd1.base.unet, published: SDXL_UNET },
    textEncoders: [
      {
        ...text!,
        singleFilePrefix: FIRST_PREFIX,
        singleFile: () => belowPrefix(FIRST_PREFIX, withTextModel),
      },
      {
        ...text!,
        id: 'text_encoder_2',
        tokenizer: 'tokenizer_2',
        padding: '!',
        parse: (file) => readConfig(file, clipTextWithProjectionSchema),
        published: OPEN_CLIP_BIGG_TEXT,
        singleFilePrefix: SECOND_PREFIX,
        singleFile: () => openClipNames(SECOND_PREFIX),
        layers: (config) => textLayers(config, 'text_encoder_2'),
      },
    ],
    vae: { ...sd1.base.vae, published: SDXL_VAE },
    scheduler: SDXL_SCHEDULER,
    sampler: 'euler',
    tokenEncoder: sdxlTokenEncoder,
    textReading: SDXL_READING,
    zerosForNoPrompt: true,
  },
};

/** One text encoder, and a score beside the sizes: told from SDXL by what its UNet reads. */
export const sdxlRefiner: Family = foreign('sdxl-refiner', 'SDXL refiner', {
  names: [/(^|[._])(add_embedding|label_emb)[._]/],
  contextWidth: 1280,
  needsBoth: true,
});
