/**
 * The table of schemes, behind reading, writing, `convert`, `merge` and docs/formats.md. A scheme is one entry: reading
 * and writing take the table, so nothing else knows which there are.
 */
import { cloneofsimo } from './cloneofsimo.ts';
import { comfyReader } from './comfyui.ts';
import { customDiffusionReader } from './custom-diffusion.ts';
import { diffusers, diffusersLora, diffusersProcessor } from './diffusers.ts';
import { edLora } from './ed-lora.ts';
import { kohya, kohyaLdm, lycoris } from './kohya.ts';
import { ownNames, ownReader } from './own-names.ts';
import { peft } from './peft.ts';
import type { Scheme, SchemeReader } from './scheme.ts';
import { embeddingReader } from './textual-inversion.ts';

/** Schemes that are read and written, and kinds of files that are read alone. */
export interface SchemeTable {
  readonly schemes: Readonly<Record<string, Scheme>>;
  /** Adapters in other programs' own names. */
  readonly foreignNames: readonly SchemeReader[];
  /** Files that are something of a model, whole: every name in them must be known. */
  readonly readOnly: readonly SchemeReader[];
  /** Reads files of families whose layers are not listed. */
  readonly anyFamily: SchemeReader;
  /** Reads files of which no other reader knows a name: bare words say little. */
  readonly lastResort: SchemeReader;
}

export const layerFormats = [
  'kohya',
  'kohya-ldm',
  'lycoris',
  'diffusers',
  'diffusers-lora',
  'diffusers-processor',
  'peft',
  'ed-lora',
  'cloneofsimo',
  'own',
] as const;

/** Schemes of LoRA files that can be written. */
export type LayerFormat = (typeof layerFormats)[number];

export const schemes: Readonly<Record<LayerFormat, Scheme>> = {
  kohya,
  'kohya-ldm': kohyaLdm,
  lycoris,
  diffusers,
  'diffusers-lora': diffusersLora,
  'diffusers-processor': diffusersProcessor,
  peft,
  'ed-lora': edLora,
  cloneofsimo,
  own: ownNames,
};

export const SCHEME_TABLE: SchemeTable = {
  schemes,
  foreignNames: [comfyReader],
  readOnly: [customDiffusionReader],
  anyFamily: ownReader,
  lastResort: embeddingReader,
};

/** Every reader by names once; of two that own equally many names, the earlier reads the file. */
export function readersOf({ schemes, foreignNames, readOnly, anyFamily }: SchemeTable): SchemeReader[] {
  const readers = [...Object.values(schemes).map(({ reader }) => reader), ...foreignNames, ...readOnly];
  return [...new Set(readers)].filter((reader) => reader !== anyFamily);
}
