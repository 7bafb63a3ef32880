import { SDXL_UNET } from '../families/sdxl.ts';
import { ldmStructureOf } from './ldm.ts';

export * from '../families/adapter-layers.ts';
export const sdxlUnetStructure = ldmStructureOf(SDXL_UNET);
