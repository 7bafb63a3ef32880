/**
 * What files call a layer, before the suffix of a tensor: kohya's and LyCORIS' underscored names in both numberings of
 * blocks, dotted paths of diffusers, PEFT and Mix-of-Show, and ComfyUI's own. All of them lead to one layer.
 */
import {
  type AdapterComponent,
  type AdapterModule,
  type Architecture,
  kohyaTable,
  layerOfLdmPath,
} from '../../models/families/adapter-layers.ts';
import { adapterFamily } from '../../models/families/families.ts';
import { isKnownLayer } from '../../models/families/known-layers.ts';
import { modulePath, withTextModel } from '../../models/keys/module-path.ts';
import { moduleOfKohyaName } from './kohya-names.ts';

export interface NameContext {
  readonly architecture: Architecture;
  /** Network of a PEFT adapter, where its folder or configuration tells it. */
  readonly component?: AdapterComponent | null;
}

/** Names that kohya's and LyCORIS' files use, of whatever architecture. */
export function isKohyaStyle(name: string): boolean {
  return /^(lora_(unet|te\d?|prior_te)_|lycoris_)/.test(name);
}

/** Names in ComfyUI's own layout: the networks as they are called inside of it. */
export function isComfyStyle(name: string): boolean {
  return /^(model\.)?diffusion_model\.|^text_encoders\.|^clip_[lg]\./.test(name);
}

export const peftPrefix = 'base_model.model.';

/** The layer of a name without its suffix; `null` if the name is none, or the architecture has no such layer. */
export function layerOfName(name: string, context: NameContext): AdapterModule | null {
  // Wrappers keep their names in the path: torch.compile's, and data parallel's.
  const own = name.replace(/_orig_mod[._]/g, '').replace(/(^|\.)module\./g, '$1');
  const module = own.includes('.') || !isKohyaStyle(own) ? dotted(own, context) : underscored(own, context);
  return module === null ? null : { component: module.component, layerName: module.layerName };
}

function underscored(name: string, { architecture }: NameContext): AdapterModule | null {
  const { kohyaPrefixes, anyDepth } = adapterFamily(architecture).adapters;
  const canonical = canonicalPrefix(name)
    // Some tools number the only text encoder, some do not number the first, some leave a level out.
    .replace(/^lora_te1?_/, kohyaPrefixes.text_encoder!)
    .replace(/^(lora_te\d?_)encoder_layers_/, '$1text_model_encoder_layers_')
    .replace(/^lora_prior_te_text_projection$/, 'lora_te2_text_projection')
    // ComfyUI's second name for what SDXL adds to the timestep.
    .replace(/^lora_unet_class_embedding_/, 'lora_unet_add_embedding_');
  const listed = kohyaTable(architecture).get(canonical);
  if (listed !== undefined || !anyDepth) return listed ?? null;
  return atAnotherDepth(canonical, architecture) ?? moduleOfKohyaName(canonical);
}

/** A further block of a transformer or layer of a text encoder than the published model has: named as the first is. */
function atAnotherDepth(name: string, architecture: Architecture): AdapterModule | null {
  const match = /^(.+_(?:transformer_blocks|encoder_layers)_)(0|[1-9]\d{0,3})(_.+)$/.exec(name);
  const first = match && kohyaTable(architecture).get(`${match[1]}0${match[3]}`);
  if (!first) return null;
  const layerName = first.layerName.replace(/\b(transformer_blocks|layers)\.0\./, `$1.${match[2]}.`);
  return { component: first.component, layerName };
}

/** LyCORIS' own prefix as kohya's: `lycoris_unet_…`, `lycoris_te_…`, or the bare path of a UNet or text encoder. */
function canonicalPrefix(name: string): string {
  const lycoris = /^lycoris_(.+)$/.exec(name);
  if (lycoris === null) return name;
  const rest = lycoris[1]!;
  if (/^(unet|te\d?)_/.test(rest)) return `lora_${rest}`;
  const text = /^text_encoder(_2)?_(.+)$/.exec(rest);
  if (text !== null) return `lora_te${text[1] === undefined ? '' : '2'}_${text[2]}`;
  return /^(text_model|encoder_layers)_/.test(rest) ? `lora_te_${rest}` : `lora_unet_${rest}`;
}

/** What dotted paths begin with, where they say their network. */
const networks: readonly (readonly [RegExp, AdapterComponent])[] = [
  [/^(?:lora_)?unet\.(.+)$/, 'unet'],
  [/^(?:text_encoder|lora_te1?)\.(.+)$/, 'text_encoder'],
  [/^(?:text_encoder_2|lora_te2)\.(.+)$/, 'text_encoder_2'],
  [/^(?:text_encoders\.)?clip_l\.(?:transformer\.)?(.+)$/, 'text_encoder'],
  [/^(?:text_encoders\.)?clip_g\.(?:transformer\.)?(.+)$/, 'text_encoder_2'],
];

function dotted(name: string, { architecture, component = null }: NameContext): AdapterModule | null {
  const original = /^(?:model\.)?diffusion_model\.(.+)$/.exec(name);
  if (original !== null) return layerOfLdmPath(architecture, original[1]!);
  // diffusers files that were put together of PEFT's have its level below the network's.
  const path = name.replace(/^((?:unet|text_encoder(?:_2)?)\.)?base_model\.model\./, '$1');
  for (const [pattern, network] of networks) {
    const match = pattern.exec(path);
    if (match !== null) return known(network, match[1]!);
  }
  const module = modulePath(path);
  if (module === null) return null;
  const second = component === 'text_encoder_2' && module.component === 'text_encoder';
  return known(second ? component : module.component, module.layerName);
}

/** A layer that there is, in today's names: attention processors of diffusers up to 0.17 had their own. */
function known(component: AdapterComponent, path: string): AdapterModule | null {
  const layerName =
    component === 'unet'
      ? path
          .replace(/^(.+\.attn[12])\.processor\.to_(q|k|v)$/, '$1.to_$2')
          .replace(/^(.+\.attn[12])\.processor\.to_out(?:\.0)?$/, '$1.to_out.0')
          .replace(/^class_embedding\./, 'add_embedding.')
      : withTextModel(path).replace(/^(.+\.self_attn)\.to_(q|k|v|out)$/, '$1.$2_proj');
  const module = { component, layerName };
  return isKnownLayer(module) ? module : null;
}
