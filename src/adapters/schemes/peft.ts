/** The configuration of PEFT adapters, which alone knows lora_alpha. */

import { FormatError } from '../../errors.ts';
import { readJsonFileSync } from '../../formats/json-file.ts';
import { exists } from '../../io/file-info.ts';
import * as path from '../../io/platform/paths.ts';
import { type AdapterModule, type Architecture, componentsOf } from '../../models/families/adapter-layers.ts';
import { layoutOf } from '../../models/families/families.ts';
import type { AdapterComponent, LoraLayer } from '../adapter.ts';
import { loraAlphaOf, mostCommon } from '../encode-layer.ts';
import { collectAdapterLayers } from '../layer-parts.ts';
import { describe } from './describe.ts';
import { factorTensors } from './factor-tensors.ts';
import { peftPrefix } from './layer-names.ts';
import { parseAdapterName } from './names.ts';
import { dottedOwn, noDots } from './own-layers.ts';
import { peftKey, peftScale, peftScaling } from './peft-names.ts';
import type { FactorKey, Scheme, SchemeReader } from './scheme.ts';

export const adapterConfigName = 'adapter_config.json';

/**
 * The configuration that lies beside an adapter's weights.
 * @throws {FormatError} if it is missing, no ordinary file, too large, or not an object in JSON
 */
export function readAdapterConfig(weights: string, file: string): Record<string, unknown> {
  if (!exists(file)) {
    throw new FormatError(
      weights,
      `a PEFT adapter, but there is no ${adapterConfigName} beside it, which holds lora_alpha; keep the two together`,
    );
  }
  const config = readJsonFileSync(file);
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new FormatError(file, 'expected a JSON object');
  }
  return config as Record<string, unknown>;
}

/** The network that a configuration's class of the base is; `null` if it does not say, or any network may be of that class. */
function componentOf({ auto_mapping: mapping }: Readonly<Record<string, unknown>>): AdapterComponent | null {
  const base = (mapping as { base_model_class?: unknown } | null | undefined)?.base_model_class;
  return base === 'CLIPTextModelWithProjection' ? 'text_encoder_2' : null;
}

/** What the configuration beside an adapter's weights calls the base; `undefined` if there is none or it does not say. */
export function baseOfPeft(config: Readonly<Record<string, unknown>>): string | undefined {
  const base = config.base_model_name_or_path;
  // A name of a model site, not a folder somewhere.
  return typeof base === 'string' && /^[\w.-]+(\/[\w.-]+)?$/.test(base) ? base : undefined;
}

const reader: SchemeReader = {
  name: 'peft',
  examples: ['base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight'],
  recognises: (file) => [...file.tensors.keys()].filter((name) => name.startsWith(peftPrefix)).length,
  read: (file, { architecture, component = null, config }) => {
    const configFile = path.join(path.dirname(file.path), adapterConfigName);
    const own = config ?? readAdapterConfig(file.path, configFile);
    const scaling = peftScaling(configFile, own, { dora: true });
    const context = { architecture, component: component ?? componentOf(own) };
    const layers = collectAdapterLayers(file.path, file.tensors.values(), {
      architecture,
      parse: (name) => parseAdapterName(name, context),
      scale: ({ layerName }, rank) => peftScale(file.path, scaling, layerName, rank),
      // PEFT divides by its rank even where a LoKr has none.
      wholeScale: ({ layerName }) => peftScale(file.path, scaling, layerName, null),
    });
    return { ...layers, words: [] };
  },
};

const key: FactorKey = (module, part) =>
  peftKey({ component: 'unet', layerName: pathIn(module) ?? module.layerName }, part);

/**
 * A layer as its network calls it: transformers 5 has taken a level from the names of the first text encoder. `null` where the
 * file did not say.
 */
export function pathIn(module: AdapterModule): string | null {
  if (module.own !== undefined) return dottedOwn(module);
  const { component, layerName } = module;
  return component === 'text_encoder' ? layerName.replace(/^text_model\./, '') : layerName;
}

/** Folders of an adapter's networks, with what is in each. A network that is not listed has no other name than the adapter's. */
function placesOf(
  family: Architecture,
): [component: AdapterComponent, place: string, belongs: (layer: AdapterModule) => boolean][] {
  if (layoutOf(family) !== null) {
    return componentsOf(family).map((component) => [
      component,
      `${component}/`,
      (layer) => layer.component === component,
    ]);
  }
  const encoder = (number: string) => (layer: AdapterModule) =>
    layer.component === 'encoder' && layer.layerName.startsWith(`te${number}_`);
  return [
    ['network', '', ({ component }) => component === 'network'],
    ['text_encoder', 'text_encoder/', encoder('1')],
    ['text_encoder_2', 'text_encoder_2/', encoder('2')],
  ];
}

/**
 * A LoraConfig whose scales are the layers' own. PEFT takes a name in it as the end of a layer's name, so that it fits with
 * and without the level above.
 */
export function adapterConfig(
  layers: readonly (AdapterModule & Pick<LoraLayer, 'rank' | 'scale'>)[],
): Record<string, unknown> {
  const r = mostCommon(layers.map(({ rank }) => rank));
  const loraAlpha = mostCommon(layers.map(loraAlphaOf));
  const exceptions = (
    usual: number,
    of: (layer: (typeof layers)[number]) => number,
  ): Record<string, number> =>
    Object.fromEntries(
      layers.filter((layer) => of(layer) !== usual).map((layer) => [pathIn(layer)!, of(layer)]),
    );
  return {
    peft_type: 'LORA',
    task_type: null,
    base_model_name_or_path: null,
    inference_mode: true,
    r,
    lora_alpha: loraAlpha,
    rank_pattern: exceptions(r, ({ rank }) => rank),
    alpha_pattern: exceptions(loraAlpha, loraAlphaOf),
    target_modules: layers.map((layer) => pathIn(layer)!),
    lora_dropout: 0,
    bias: 'none',
    use_rslora: false,
    use_dora: false,
    fan_in_fan_out: false,
  };
}

const escaped = (name: string): string => name.replaceAll('.', '\\.');

export const peft: Scheme = {
  name: 'peft',
  title: 'PEFT: a folder with an adapter per network',
  reader,
  folder: true,
  alpha: 'each',
  anyKind: false,
  words: 'none',
  secondEncoder: true,
  loses: 'words',
  refuses: (layer) => {
    if (layer.component === 'encoder' && !/^te[12]_/.test(layer.layerName)) {
      return 'a text encoder that the folder has no name for';
    }
    return pathIn(layer) === null ? noDots : null;
  },
  key,
  encode: (output, stored) =>
    placesOf(output.architecture).flatMap(([component, place, belongs]) => {
      const layers = (stored as readonly LoraLayer[]).filter(belongs);
      if (layers.length === 0) return [];
      const paths = layers.map((layer) => escaped(pathIn(layer)!));
      // As an expression it fits whole names only: a network that calls them otherwise is refused, not left unchanged.
      const config = { ...adapterConfig(layers), target_modules: paths.join('|') };
      return [
        {
          place: `${place}adapter_model.safetensors`,
          tensors: layers.flatMap((layer) => factorTensors(layer, key, output.architecture)),
          header: { ...describe(output), format: 'pt' },
          beside: { [adapterConfigName]: `${JSON.stringify(config, null, 2)}\n` },
          layers,
          words: [],
          component,
          config,
        },
      ];
    }),
};
