/**
 * LoRA files in diffusers' spellings. Newer ones say their scaling in the header's `lora_adapter_metadata`; where
 * neither that nor an alpha is stored, diffusers applies up · down, and so do we.
 */
import { FormatError } from '../../errors.ts';
import { parseJson } from '../../formats/strict-json.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { DEFAULT_FAMILY } from '../../models/families/families.ts';
import type { Component } from '../../models/keys/module-path.ts';
import type { LoraLayer } from '../adapter.ts';
import { describe } from './describe.ts';
import { type DiffusersSpelling, diffusersLoraKey } from './diffusers-names.ts';
import { isEdLoraName } from './ed-lora-names.ts';
import { factorTensors } from './factor-tensors.ts';
import { isComfyStyle, isKohyaStyle, peftPrefix } from './layer-names.ts';
import { layersAndWords } from './layers-and-words.ts';
import { parseAdapterName } from './names.ts';
import { diffusersOwn, dottedOwn, noDots } from './own-layers.ts';
import { adapterConfig } from './peft.ts';
import { type PeftScaling, peftScale, peftScaling } from './peft-names.ts';
import type { FactorKey, Scheme, SchemeReader } from './scheme.ts';

/** Header entry of diffusers since 0.34: a LoraConfig for each network. */
const metadataKey = 'lora_adapter_metadata';

/**
 * Scaling per component from `lora_adapter_metadata`: a JSON object with keys such as `unet.lora_alpha`.
 */
export function adapterScalings(file: TensorFile): Map<string, PeftScaling> {
  const text = file.metadata.get(metadataKey);
  if (text === undefined) return new Map();
  const config = parseJson(text, `${file.path}: lora_adapter_metadata`);
  if (typeof config !== 'object' || config === null) {
    throw new FormatError(file.path, 'lora_adapter_metadata: expected an object');
  }
  const byComponent = new Map<string, Map<string, unknown>>();
  for (const [key, value] of Object.entries(config)) {
    const dot = key.indexOf('.');
    const component = key.slice(0, Math.max(dot, 0));
    const own = byComponent.get(component) ?? new Map<string, unknown>();
    own.set(key.slice(dot + 1), value);
    byComponent.set(component, own);
  }
  return new Map(
    [...byComponent].map(([component, own]) => [
      component,
      peftScaling(
        `${file.path} (lora_adapter_metadata, ${component || 'no component'})`,
        Object.fromEntries(own),
        { dora: true },
      ),
    ]),
  );
}

const reader: SchemeReader = {
  name: 'diffusers',
  examples: [
    'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight',
    'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight',
  ],
  recognises: (file) => [...file.tensors.keys()].filter(isDottedLayer).length,
  read: (file, { architecture }) => {
    const scalings = adapterScalings(file);
    const context = { architecture };
    return layersAndWords(file, {
      architecture,
      parse: (name) => parseAdapterName(name, context),
      scale: (module, rank, alpha) => {
        const scaling = alpha === null ? scalings.get(module.component) : undefined;
        return scaling === undefined
          ? (alpha ?? rank) / rank
          : peftScale(file.path, scaling, module.layerName, rank);
      },
    });
  },
};

/** Whether a name is of a layer by its dotted path, below no other program's levels. */
function isDottedLayer(name: string): boolean {
  if (isKohyaStyle(name) || isComfyStyle(name) || isEdLoraName(name) || name.startsWith(peftPrefix))
    return false;
  return parseAdapterName(name, { architecture: DEFAULT_FAMILY.name }) !== null;
}

type Key = (...args: Parameters<FactorKey>) => string | null;

/** diffusers' key; the second text encoder, which its old converter does not know, is spelled as the first. */
const keyIn =
  (unet: DiffusersSpelling, text: DiffusersSpelling): Key =>
  (module, part) => {
    const { component, layerName } = module;
    if (module.own !== undefined) {
      const path = unet === 'lora_A' ? diffusersOwn(module) : null;
      return path === null ? null : `${path}.lora_${part === 'up' ? 'B' : 'A'}.weight`;
    }
    const own = component as Component;
    return diffusersLoraKey({ component: own, layerName }, part, own === 'unet' ? unet : text);
  };

const spelled = (key: Key): Pick<Scheme, 'refuses' | 'key' | 'encode'> => ({
  key: (...which) => key(...which)!,
  refuses: (layer, architecture) =>
    key(layer, 'up', architecture) !== null
      ? null
      : layer.own === undefined
        ? 'no attention layer'
        : dottedOwn(layer) === null
          ? noDots
          : 'a layer of a family that the spelling is older than',
  encode: (output, stored) => {
    const layers = stored as readonly LoraLayer[];
    const tensors = layers.flatMap((layer) =>
      factorTensors(layer, (...which) => key(...which)!, output.architecture),
    );
    const header = {
      ...describe(output),
      ...adapterMetadata(layers, (layer) => key(layer, 'up', output.architecture)!),
      format: 'pt',
    };
    return [{ place: '', tensors, header, layers, words: output.words }];
  },
});

/**
 * What diffusers has to be told where ranks differ: without it, it divides one alpha for all layers by each layer's rank.
 * @param layers of scale 1
 * @param nameOf begins with the network's name
 */
export function adapterMetadata(
  layers: readonly LoraLayer[],
  nameOf: (layer: LoraLayer) => string,
): Record<string, string> {
  if (new Set(layers.map(({ rank }) => rank)).size <= 1) return {};
  const networkOf = (layer: LoraLayer): string => nameOf(layer).split('.', 1)[0]!;
  // Of files in other programs' names diffusers makes its own before it asks.
  if (!layers.every((layer) => /^(unet|transformer|text_encoder(_\d)?)$/.test(networkOf(layer)))) return {};
  const entries = [...new Set(layers.map(networkOf))].flatMap((network) => {
    const own = layers.filter((layer) => networkOf(layer) === network);
    return Object.entries(adapterConfig(own)).map(([name, value]) => [`${network}.${name}`, value] as const);
  });
  return { [metadataKey]: JSON.stringify(Object.fromEntries(entries)) };
}

const common = {
  reader,
  folder: false,
  alpha: 'none',
  anyKind: false,
  words: 'none',
  secondEncoder: true,
  loses: 'words; alpha (folded into the factors)',
} as const;

export const diffusers: Scheme = {
  ...common,
  ...spelled(keyIn('lora_A', 'lora_A')),
  name: 'diffusers',
  title: 'diffusers, lora_A and lora_B (today’s spelling)',
};

export const diffusersLora: Scheme = {
  ...common,
  ...spelled(keyIn('lora', 'lora_linear_layer')),
  name: 'diffusers-lora',
  title: 'diffusers 0.18–0.26, lora.up and lora.down; text encoders lora_linear_layer',
};

export const diffusersProcessor: Scheme = {
  ...common,
  ...spelled(keyIn('processor', 'processor')),
  name: 'diffusers-processor',
  title: 'diffusers up to 0.17, attention processors',
  loses: 'words; layers other than attention; alpha (folded into the factors)',
};
