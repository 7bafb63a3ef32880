/** Stable Diffusion 1.x, whole. Configurations: huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5. */
import { textLayers } from '../clip/changeable-layers.ts';
import { clipTextSchema } from '../clip/config.ts';
import { readConfig } from '../config-file.ts';
import { checkTextEncoderFits, checkUnetFits, checkVaeFits } from '../config-fit.ts';
import { canonicalTextEncoderName, canonicalVaeName } from '../keys/diffusers.ts';
import { ldmStructureOf, ldmUnetNames, ldmVaeNames } from '../keys/ldm.ts';
import { withTextModel } from '../keys/module-path.ts';
import { belowPrefix, oneName } from '../keys/read-names.ts';
import { unetLayers } from '../unet/changeable-layers.ts';
import { unetSchema } from '../unet/config.ts';
import { unetParameters } from '../unet/parameter-names.ts';
import { vaeSchema } from '../vae/config.ts';
import { blockNames, range } from './blocks.ts';
import type { BaseFamily } from './family.ts';
import {
  CLIP_VIT_L_TEXT,
  CLIP_VIT_L_WITH_PROJECTION,
  SD15_SCHEDULER,
  SD15_UNET,
  SD15_VAE,
} from './sd1-configs.ts';
import { SD1_READING, sd1TokenEncoder } from './sd1-token-encoder.ts';

const TEXT_PREFIX = 'cond_stage_model.transformer.';

export const sd1: BaseFamily = {
  name: 'sd1',
  title: 'Stable Diffusion 1.x',
  shortTitle: 'SD 1.x',
  // What speaks for no other family is taken for this one.
  signs: {
    names: [],
    titles: /^sd[ _-]?(v[ _-]?)?1(?!\d)|^sd15|stable[ _-]diffusion[ _-](v[ _-]?)?1(?!\d)/i,
    contextWidth: 768,
    wordWidth: 768,
  },
  blockNames: new Map([
    [17, blockNames([1, 2, 4, 5, 7, 8], range(3, 11))],
    [26, blockNames(range(0, 11), range(0, 11))],
  ]),
  blockOf: null,
  adapters: {
    unet: SD15_UNET,
    textEncoders: { text_encoder: CLIP_VIT_L_WITH_PROJECTION },
    kohyaPrefixes: { unet: 'lora_unet_', text_encoder: 'lora_te_' },
    kohyaNumbering: 'diffusers',
    anyDepth: true,
    conceptFiles: ['ed-lora', 'cloneofsimo'],
    singleFile: {
      unet: oneName(ldmUnetNames(ldmStructureOf(SD15_UNET)).fromLdm),
      text_encoder: belowPrefix(TEXT_PREFIX, withTextModel),
    },
    kohyaVersion: 'sd_v1',
    modelspec: {
      'modelspec.architecture': 'stable-diffusion-v1/lora',
      'modelspec.implementation': 'diffusers',
    },
  },
  base: {
    unet: {
      id: 'unet',
      stems: ['diffusion_pytorch_model'],
      parse: (file) => readConfig(file, unetSchema),
      published: SD15_UNET,
      canonical: (name) => name,
      singleFilePrefix: 'model.diffusion_model.',
      singleFile: (config) => oneName(ldmUnetNames(ldmStructureOf(config)).fromLdm),
      parameters: unetParameters,
      checkFits: checkUnetFits,
      layers: unetLayers,
    },
    textEncoders: [
      {
        id: 'text_encoder',
        tokenizer: 'tokenizer',
        stems: ['model', 'pytorch_model'],
        parse: (file) => readConfig(file, clipTextSchema),
        published: CLIP_VIT_L_TEXT,
        canonical: canonicalTextEncoderName,
        singleFilePrefix: TEXT_PREFIX,
        singleFile: () => belowPrefix(TEXT_PREFIX, withTextModel),
        checkFits: checkTextEncoderFits,
        layers: (config) => textLayers(config, 'text_encoder'),
      },
    ],
    vae: {
      id: 'vae',
      stems: ['diffusion_pytorch_model'],
      parse: (file) => readConfig(file, vaeSchema),
      published: SD15_VAE,
      canonical: canonicalVaeName,
      singleFilePrefix: 'first_stage_model.',
      singleFile: ({ blockChannels, layersPerBlock }) =>
        oneName(ldmVaeNames({ blocks: blockChannels.length, layersPerBlock }).fromLdm),
      checkFits: checkVaeFits,
      layers: () => [],
    },
    scheduler: SD15_SCHEDULER,
    sampler: 'dpmpp-2m',
    tokenEncoder: sd1TokenEncoder,
    textReading: SD1_READING,
    zerosForNoPrompt: false,
    singleFileSign: 'model.diffusion_model.input_blocks.0.0.weight',
  },
};
