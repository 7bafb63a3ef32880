/** Stable Diffusion 2.x, whole: another text encoder than 1.x, linear projections, and heads of one size. */
import { textLayers } from '../clip/changeable-layers.ts';
import { ldmStructureOf, ldmUnetNames } from '../keys/ldm.ts';
import { openClipNames } from '../keys/open-clip.ts';
import { oneName } from '../keys/read-names.ts';
import type { BaseFamily } from './family.ts';
import { sd1 } from './sd1.ts';
import { OPEN_CLIP_H_TEXT, SD2_SCHEDULER, SD2_UNET } from './sd2-configs.ts';

const TEXT_PREFIX = 'cond_stage_model.model.';
const [text] = sd1.base.textEncoders;

export const sd2: BaseFamily = {
  name: 'sd2',
  title: 'Stable Diffusion 2.x',
  shortTitle: 'SD 2.x',
  signs: {
    names: [/^cond_stage_model\.model\.transformer\.resblocks\./],
    titles: /^sd[ _-]?(v[ _-]?)?2|stable[ _-]diffusion[ _-](v[ _-]?)?2/i,
    contextWidth: 1024,
    wordWidth: 1024,
    linearProjections: true,
  },
  blockNames: sd1.blockNames,
  blockOf: null,
  adapters: {
    ...sd1.adapters,
    unet: SD2_UNET,
    textEncoders: { text_encoder: OPEN_CLIP_H_TEXT },
    anyDepth: true,
    conceptFiles: ['ed-lora'],
    singleFile: {
      unet: oneName(ldmUnetNames(ldmStructureOf(SD2_UNET)).fromLdm),
      text_encoder: openClipNames(TEXT_PREFIX),
    },
    kohyaVersion: 'sd_v2',
    modelspec: {
      'modelspec.architecture': 'stable-diffusion-v2-768-v/lora',
      'modelspec.implementation': 'diffusers',
    },
  },
  base: {
    ...sd1.base,
    unet: { ...sd1.base.unet, published: SD2_UNET },
    textEncoders: [
      {
        ...text!,
        published: OPEN_CLIP_H_TEXT,
        padding: '!',
        singleFilePrefix: TEXT_PREFIX,
        singleFile: () => openClipNames(TEXT_PREFIX),
        layers: (config) => textLayers(config, 'text_encoder'),
      },
    ],
    scheduler: SD2_SCHEDULER,
  },
};
