/**
 * Programs that people load LoRAs with, one entry each: which scheme to write for it, and what of a file it does not read.
 * Facts were taken by running the programs' own loaders (fixtures/cases/interop, fixtures/cases/loaded; for
 * stable-diffusion.cpp its source, leejet/stable-diffusion.cpp@0b56245, lora.hpp). docs/formats.md has the same as a table.
 */
import { type Architecture, adapterModuleId } from '../models/families/adapter-layers.ts';
import { layoutOf } from '../models/families/families.ts';
import type { AdapterLayer, AdapterWord } from './adapter.ts';
import { kernelArea } from './adapter.ts';
import type { LayerFormat } from './schemes/index.ts';
import { isPlainLora } from './schemes/scheme.ts';
import type { WordFormat } from './words.ts';

/** What a program sees beside a layer. */
export interface FileLayers {
  readonly architecture: Architecture;
  /** Of all layers. */
  readonly ids: ReadonlySet<string>;
}

export interface Program {
  readonly title: string;
  /** Scheme of plain LoRA, which every layer becomes unless all others are of kinds that the program reads. */
  readonly format: LayerFormat;
  /** Scheme that holds the other kinds, where the program reads any. */
  readonly kindsFormat: LayerFormat | null;
  /** Scheme of families whose layers are not listed here. */
  readonly ownFormat: LayerFormat;
  /** Form of a file of words alone; with vectors of a second text encoder. */
  readonly words: WordFormat;
  readonly secondWords: WordFormat;
  /** Whether it reads words inside of a LoRA file. */
  readonly readsBundledWords: boolean;
  /** Why a layer is not read, or not as it is meant; `null` if it is. */
  readonly ignores: (layer: AdapterLayer, file: FileLayers) => string | null;
}

export const programNames = [
  'comfyui',
  'a1111',
  'diffusers',
  'peft',
  'sd-scripts',
  'stable-diffusion.cpp',
  'mix-of-show',
] as const;

export type ProgramName = (typeof programNames)[number];

/** A projection behind a text encoder, which is no layer of it in most programs. */
const isProjection = ({ layerName }: AdapterLayer): boolean => layerName === 'text_projection';

const isFirstProjection = (layer: AdapterLayer): boolean =>
  layer.component === 'text_encoder' && isProjection(layer);

/** Text encoders of a family; kohya numbers them where there are several. */
function encodersOf(architecture: Architecture): number {
  return Object.keys(layoutOf(architecture)?.textEncoders ?? {}).length;
}

/** Layers that sd-scripts does not build. */
const outsideBlocks = /^(conv_in|conv_out|time_embedding\.linear_[12]|add_embedding\.linear_[12])$/;

const attentionOf = /^(text_model\.encoder\.layers\.\d+\.self_attn\.)(?:q|k|v|out)_proj$/;

/** The second text encoder of the original is one matrix for q, k and v: A1111 changes it by all four, or not at all. */
function lacksPartner({ component, layerName }: AdapterLayer, ids: ReadonlySet<string>): boolean {
  const stem = component === 'text_encoder_2' ? attentionOf.exec(layerName)?.[1] : undefined;
  return (
    stem !== undefined && ['q', 'k', 'v', 'out'].some((part) => !ids.has(`${component}:${stem}${part}_proj`))
  );
}

const webUi = {
  format: 'kohya',
  kindsFormat: 'lycoris',
  ownFormat: 'own',
} as const;

const plainKohya = { ...webUi, kindsFormat: null, readsBundledWords: false } as const;

/** What every program that reads words by files takes. */
const embeddings = { words: 'kohya-embedding', secondWords: 'sdxl-embedding' } as const;

export const programs: Readonly<Record<ProgramName, Program>> = {
  comfyui: {
    ...webUi,
    ...embeddings,
    title: 'ComfyUI',
    readsBundledWords: false,
    ignores: (layer, { architecture }) =>
      isFirstProjection(layer) && encodersOf(architecture) === 1
        ? 'the projection of an only text encoder'
        : null,
  },
  a1111: {
    ...webUi,
    ...embeddings,
    title: 'AUTOMATIC1111 web UI',
    readsBundledWords: true,
    ignores: (layer, { ids }) => {
      if (isProjection(layer)) return 'a text encoder’s projection';
      if (lacksPartner(layer, ids)) {
        return 'one of q, k, v and out of the second text encoder without the others';
      }
      return layer.biasDiff !== null && layer.kind !== 'diff'
        ? 'a difference of biases beside factors'
        : null;
    },
  },
  diffusers: {
    title: 'diffusers (load_lora_weights)',
    format: 'diffusers',
    kindsFormat: null,
    ownFormat: 'diffusers',
    words: 'diffusers-embedding',
    secondWords: 'sdxl-embedding',
    readsBundledWords: false,
    ignores: (layer) => (isFirstProjection(layer) ? 'a projection that CLIPTextModel lacks' : null),
  },
  peft: {
    title: 'PEFT (PeftModel.from_pretrained, one adapter per network)',
    format: 'peft',
    kindsFormat: null,
    ownFormat: 'peft',
    words: 'diffusers-embedding',
    secondWords: 'sdxl-embedding',
    readsBundledWords: false,
    ignores: (layer) => (isFirstProjection(layer) ? 'a projection that CLIPTextModel lacks' : null),
  },
  'sd-scripts': {
    ...plainKohya,
    ...embeddings,
    title: 'sd-scripts (networks.lora)',
    ignores: (layer) => {
      if (isProjection(layer)) return 'a text encoder’s projection';
      return layer.component === 'unet' && outsideBlocks.test(layer.layerName)
        ? 'a layer outside of the blocks'
        : null;
    },
  },
  'stable-diffusion.cpp': {
    ...plainKohya,
    ...embeddings,
    title: 'stable-diffusion.cpp',
    ignores: () => null,
  },
  'mix-of-show': {
    title: 'Mix-of-Show',
    format: 'ed-lora',
    kindsFormat: null,
    ownFormat: 'ed-lora',
    words: 'ed-lora',
    secondWords: 'ed-lora',
    readsBundledWords: true,
    ignores: () => null,
  },
};

/** DoRA whose magnitudes are one per output, as its paper and PEFT have them; LyCORIS' are one per input as well. */
export function isDoraOverOutputs({ doraScale }: AdapterLayer): boolean {
  return doraScale !== null && doraScale.shape[0] !== 1;
}

/** Whether ComfyUI and A1111 compute what a layer says, of whatever kind it is. */
function isReadAsItIs(layer: AdapterLayer): boolean {
  if (isDoraOverOutputs(layer) || layer.kind === 'ia3' || layer.kind === 'weight') return false;
  return !(layer.kind === 'lokr' && 'core' in layer.w1 && layer.w1.core !== null);
}

/** What a file is written from. */
export interface ProgramInput {
  readonly architecture: Architecture;
  readonly layers: Iterable<AdapterLayer>;
  readonly words: readonly AdapterWord[];
}

/** The scheme, or form of words, in which a program reads most of an adapter. */
export function formatFor(
  name: ProgramName,
  { architecture, layers, words }: ProgramInput,
): LayerFormat | WordFormat {
  const program = programs[name];
  const all = [...layers];
  if (all.length === 0) {
    const second = words.some(({ encoder }) => encoder === 'text_encoder_2');
    return second ? program.secondWords : program.words;
  }
  if (layoutOf(architecture) === null) return program.ownFormat;
  const others = all.filter((layer) => !isPlainLora(layer) || layer.biasDiff !== null);
  return program.kindsFormat !== null && others.length > 0 && others.every(isReadAsItIs)
    ? program.kindsFormat
    : program.format;
}

/** What a program does not read of a file in its own scheme, in words; layers of one reason together. */
export function unreadBy(name: ProgramName, { architecture, layers, words }: ProgramInput): string[] {
  const { title, ignores, readsBundledWords } = programs[name];
  const listed = [...layers];
  const file = { architecture, ids: new Set(listed.map(adapterModuleId)) };
  const reasons = new Map<string, string[]>();
  for (const layer of listed) {
    const reason = ignores(layer, file);
    if (reason !== null) reasons.set(reason, [...(reasons.get(reason) ?? []), adapterModuleId(layer)]);
  }
  const notes = [...reasons].map(
    ([reason, ids]) =>
      `${title} does not read ${ids.length === 1 ? 'one layer' : `${ids.length} layers`}, ${reason}: ${ids.slice(0, 3).join(', ')}${ids.length > 3 ? ', …' : ''}`,
  );
  if (listed.length > 0 && words.length > 0 && !readsBundledWords) {
    notes.push(
      `${title} does not read words inside a LoRA file: ${words.map(({ word }) => word).join(', ')}`,
    );
  }
  return notes;
}

/** What other programs make of a file's layers, where that is another change than the file says. */
export function notesOnLayers(format: string, layers: readonly AdapterLayer[]): string[] {
  const notes: string[] = [];
  const magnitudes = layers.filter(({ doraScale }) => doraScale !== null);
  if (magnitudes.length > 0) {
    const others = magnitudes.some(isDoraOverOutputs)
      ? '; over outputs, ComfyUI and A1111 compute another change'
      : '';
    notes.push(
      `DoRA in ${magnitudes.length} ${magnitudes.length === 1 ? 'layer' : 'layers'}: diffusers leaves the magnitudes out${others}; converted to kohya with \`base\` and a \`rank\`, it becomes a LoRA that all read alike`,
    );
  }
  const full = layers.some(
    (layer) => layer.component === 'text_encoder_2' || layer.layerName.startsWith('add_embedding.'),
  );
  const resnets = layers.some(
    ({ kernel, layerName }) => kernelArea(kernel) > 1 && layerName.includes('.resnets.'),
  );
  if (full && resnets && (format === 'kohya' || format === 'kohya-ldm' || format === 'lycoris')) {
    notes.push(
      'convolutions of SDXL in these names stop diffusers 0.42; it loads them with `format: diffusers`',
    );
  }
  return notes;
}
