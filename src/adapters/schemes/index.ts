/**
 * What each scheme can hold, and its tensor names: the table behind `convert`, `merge` and docs/formats.md. Everything a
 * scheme cannot hold is named with a reason before anything is written.
 */

import { UsageError } from '../../errors.ts';
import { type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import {
  adapterModuleId,
  diffusersKohyaName,
  isPlainSd1,
  ldmKohyaName,
} from '../../models/keys/sd-modules.ts';
import type { AdapterLayer, AdapterModule, Architecture, LoraLayer } from '../adapter.ts';
import { positionalLayers } from './cloneofsimo.ts';
import { diffusersLoraKey } from './diffusers-names.ts';
import { edLoraKey } from './ed-lora-names.ts';
import { partSuffix } from './names.ts';
import { peftKey } from './peft-names.ts';

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
] as const;

/** Schemes of LoRA files that can be written. */
export type LayerFormat = (typeof layerFormats)[number];

export interface Scheme {
  readonly title: string;
  /** Whether alpha is stored; where not, it is folded into the factors. */
  readonly storesAlpha: boolean;
  /** Whether layers other than plain LoRA stay what they are. */
  readonly anyKind: boolean;
  /** Which words fit: none, one vector per token, or one per cross-attention layer too. */
  readonly words: 'none' | 'tokens' | 'layers';
  /** What docs/formats.md says is lost, beyond that. */
  readonly loses: string;
  /** Why a layer cannot be held; `null` if it can. */
  readonly refuses: (layer: AdapterLayer, architecture: Architecture) => string | null;
  /** Name of a part; only called for layers that are not refused. `null` for schemes that number their layers. */
  readonly key: ((module: AdapterModule, part: 'up' | 'down', architecture: Architecture) => string) | null;
}

const isWide = ({ kernel }: AdapterLayer): boolean => kernel !== null && kernel[0] * kernel[1] > 1;

const never = (): null => null;
const sd1Only =
  (what: string) =>
  (layer: AdapterLayer, architecture: Architecture): string | null =>
    architecture === 'sd1' && isPlainSd1(layer) ? null : `${what} files are for Stable Diffusion 1.x`;

const kohyaName = (
  module: AdapterModule,
  architecture: Architecture,
  numbering: 'diffusers' | 'ldm',
): string => {
  const name =
    numbering === 'ldm' || architecture === 'sdxl'
      ? ldmKohyaName(architecture, module)
      : diffusersKohyaName(architecture, module);
  if (name === null) throw new UsageError(`${adapterModuleId(module)}: no such layer in ${architecture}`);
  return name;
};

/** diffusers' key with the second text encoder, which its old converter does not know, spelled as the first. */
const diffusersKey =
  (unet: 'lora' | 'lora_A' | 'processor', text: 'lora_linear_layer' | 'lora_A' | 'processor') =>
  ({ component, layerName }: AdapterModule, part: 'up' | 'down'): string | null => {
    const own = component === 'unet' ? 'unet' : 'text_encoder';
    const key = diffusersLoraKey({ component: own, layerName }, part, own === 'unet' ? unet : text);
    return key === null || component !== 'text_encoder_2'
      ? key
      : key.replace(/^text_encoder\./, 'text_encoder_2.');
  };

const newest = diffusersKey('lora_A', 'lora_A');
const middle = diffusersKey('lora', 'lora_linear_layer');
const oldest = diffusersKey('processor', 'processor');

export const schemes: Readonly<Record<LayerFormat, Scheme>> = {
  kohya: {
    title: 'kohya (sd-scripts, A1111, ComfyUI): one safetensors file; SDXL in block numbers of the original',
    storesAlpha: true,
    anyKind: false,
    words: 'tokens',
    loses: 'words with one vector per cross-attention layer; differences of biases',
    refuses: never,
    key: (module, part, architecture) =>
      `${kohyaName(module, architecture, 'diffusers')}.${partSuffix[part]}`,
  },
  'kohya-ldm': {
    title: 'kohya with the original block numbers (input_blocks, middle_block, output_blocks)',
    storesAlpha: true,
    anyKind: false,
    words: 'tokens',
    loses: 'as kohya',
    refuses: never,
    key: (module, part, architecture) => `${kohyaName(module, architecture, 'ldm')}.${partSuffix[part]}`,
  },
  lycoris: {
    title: 'LyCORIS over kohya’s names: LoCon, LoHa, LoKr, (IA)³, full differences, DoRA stay as they are',
    storesAlpha: true,
    anyKind: true,
    words: 'tokens',
    loses: 'words with one vector per cross-attention layer',
    refuses: (layer) => (layer.kind === 'weight' ? 'a whole weight is no change of one' : null),
    key: (module, part, architecture) =>
      `${kohyaName(module, architecture, 'diffusers')}.${partSuffix[part]}`,
  },
  diffusers: {
    title: 'diffusers, lora_A and lora_B (today’s spelling)',
    storesAlpha: false,
    anyKind: false,
    words: 'none',
    loses: 'words; alpha (folded into the factors)',
    refuses: never,
    key: (module, part) => newest(module, part)!,
  },
  'diffusers-lora': {
    title: 'diffusers 0.18–0.26, lora.up and lora.down; text encoders lora_linear_layer',
    storesAlpha: false,
    anyKind: false,
    words: 'none',
    loses: 'words; alpha (folded into the factors)',
    refuses: never,
    key: (module, part) => middle(module, part)!,
  },
  'diffusers-processor': {
    title: 'diffusers up to 0.17, attention processors',
    storesAlpha: false,
    anyKind: false,
    words: 'none',
    loses: 'words; layers other than attention; alpha (folded into the factors)',
    refuses: (layer) => (oldest(layer, 'up') === null ? 'no attention layer' : null),
    key: (module, part) => oldest(module, part)!,
  },
  peft: {
    title: 'PEFT: a folder with an adapter per network',
    storesAlpha: true,
    anyKind: false,
    words: 'none',
    loses: 'words',
    refuses: never,
    key: ({ layerName }, part) => peftKey({ component: 'unet', layerName }, part),
  },
  'ed-lora': {
    title: 'ED-LoRA (Mix-of-Show): .pth, or the same names in safetensors',
    storesAlpha: false,
    anyKind: false,
    words: 'layers',
    loses: 'convolutions larger than 1 × 1; alpha (folded into the factors); .pth: the header',
    refuses: (layer, architecture) =>
      isWide(layer) ? `a ${layer.kernel!.join('×')} convolution` : sd1Only('ED-LoRA')(layer, architecture),
    key: (module, part) =>
      `${module.component}.${edLoraKey({ component: 'unet', layerName: module.layerName }, part)}`,
  },
  cloneofsimo: {
    title: 'cloneofsimo/lora: numbered layers',
    storesAlpha: false,
    anyKind: false,
    words: 'tokens',
    loses: 'layers other than attention and the first feed-forward; alpha (folded into the factors)',
    refuses: (layer, architecture) => {
      const foreign = sd1Only('positional')(layer, architecture);
      if (foreign !== null || !isPlainSd1(layer)) return foreign;
      const known = positionalLayers(layer.component).some(({ layerName }) => layerName === layer.layerName);
      return known ? null : 'the scheme has no number for this layer';
    },
    key: null,
  },
};

/** Tensors of a plain LoRA layer under the scheme's names, without alpha. */
export function factorTensors(
  layer: LoraLayer,
  key: (module: AdapterModule, part: 'up' | 'down', architecture: Architecture) => string,
  architecture: Architecture,
): RawTensor[] {
  return [
    renamed(layer.down, key(layer, 'down', architecture)),
    renamed(layer.up, key(layer, 'up', architecture)),
  ];
}

/** Every tensor of a layer of any kind, by its LyCORIS suffix; alpha and `on_input` not included. */
export function partTensors(layer: AdapterLayer): [suffix: string, tensor: RawTensor][] {
  const pair = (
    names: readonly [string, string, string],
    { a, b, core }: { a: RawTensor; b: RawTensor; core: RawTensor | null },
  ): [string, RawTensor][] => [
    [names[0], a],
    [names[1], b],
    ...(core === null ? [] : [[names[2], core] as [string, RawTensor]]),
  ];
  const own = ((): [string, RawTensor][] => {
    switch (layer.kind) {
      case 'lora':
        return [
          [partSuffix.up, layer.up],
          [partSuffix.down, layer.down],
          ...(layer.mid === null ? [] : [[partSuffix.mid, layer.mid] as [string, RawTensor]]),
        ];
      case 'loha':
        return [
          ...pair([partSuffix.w1a, partSuffix.w1b, partSuffix.t1], layer.w1),
          ...pair([partSuffix.w2a, partSuffix.w2b, partSuffix.t2], layer.w2),
        ];
      case 'lokr':
        return [
          ...('full' in layer.w1
            ? [[partSuffix.k1, layer.w1.full] as [string, RawTensor]]
            : pair([partSuffix.k1a, partSuffix.k1b, partSuffix.k1t], layer.w1)),
          ...('full' in layer.w2
            ? [[partSuffix.k2, layer.w2.full] as [string, RawTensor]]
            : pair([partSuffix.k2a, partSuffix.k2b, partSuffix.k2t], layer.w2)),
        ];
      case 'ia3':
        return [[partSuffix.ia3, layer.weight]];
      case 'diff':
        return [[partSuffix.diff, layer.diff]];
      case 'weight':
        throw new UsageError(`internal: ${adapterModuleId(layer)}: a whole weight has no LyCORIS form`);
    }
  })();
  if (layer.doraScale !== null) own.push([partSuffix.dora, layer.doraScale]);
  if (layer.biasDiff !== null) own.push([partSuffix.biasDiff, layer.biasDiff]);
  return own;
}
