/**
 * Layers of families that are not listed here, by the names that files have for them. A name is a prefix that says the network
 * (kohya's, LyCORIS', diffusers', PEFT's, ComfyUI's, or none) and a path, with dots or with `_` in their place. Paths are what
 * all spellings share, so with `_` for every dot they are one layer's one name.
 */
import { adapterModuleId } from '../../models/families/adapter-layers.ts';
import type { AdapterComponent, AdapterModule, OwnSpelling } from '../../models/families/family.ts';
import { peftPrefix } from './layer-names.ts';
import { type AdapterPart, partSuffix, splitName } from './suffixes.ts';

type Place = Pick<AdapterModule, 'component' | 'layerName'>;

/** Beginnings of names, the longer before those that they begin with. What remains is the path. */
const prefixes: readonly (readonly [pattern: RegExp, encoder: ((match: string) => string) | null])[] = [
  // kohya, OneTrainer; LyCORIS puts nothing but its own name before the path of the model.
  [/^(?:lora|lycoris)_(?:te|text_encoder_?)(\d?)[._]/, (number) => `te${number || '1'}`],
  [/^lora_(?:unet|transformer|prior|dit)[._]/, null],
  [/^lycoris_(?:unet_)?/, null],
  // ComfyUI
  [/^(?:model\.)?diffusion_model\./, null],
  [/^text_encoders\.(\w+)\.(?:transformer\.)?/, (name) => (name === 'clip_l' ? 'te1' : name)],
  // diffusers
  [/^text_encoder(?:_(\d))?\./, (number) => `te${number || '1'}`],
  [/^(?:transformer|unet|prior)\./, null],
];

/** Where a name's path begins, and which encoder's it is, if any. */
function pathOf(name: string): { path: string; encoder: string | null } {
  for (const [pattern, encoder] of prefixes) {
    const match = pattern.exec(name);
    if (match === null || match[0].length === name.length) continue;
    return { path: name.slice(match[0].length), encoder: encoder === null ? null : encoder(match[1] ?? '') };
  }
  return { path: name, encoder: null };
}

/** The layer that a name is of. */
export function ownLayer(name: string): Place {
  const { path, encoder } = pathOf(name);
  const layerName = path.replaceAll('.', '_');
  return encoder === null
    ? { component: 'network', layerName }
    : { component: 'encoder', layerName: `${encoder}_${layerName}` };
}

/**
 * A name of PEFT's, whose files have a network each and do not say which, as diffusers would call it; others as they are.
 * @param network where the adapter's folder tells it
 */
export function withNetwork(name: string, network: AdapterComponent | null): string {
  if (!name.startsWith(peftPrefix)) return name;
  const path = name.slice(peftPrefix.length);
  if (pathOf(path).path !== path) return path;
  return `${network?.startsWith('text_encoder') ? network : 'transformer'}.${path}`;
}

/** A tensor's name as layer, part, and what stands behind the layer's name; `null` for a part that is none. */
export function splitOwnName(name: string): { layer: string; part: AdapterPart; suffix: string } | null {
  // X-Labs' Flux files: several adapters in one attention processor, `qkv_lora1.down.weight`.
  const processor = /^(.+_lora\d+)\.(up|down)\.weight$/.exec(name);
  const split =
    processor === null ? splitName(name) : { layer: processor[1]!, part: processor[2] as AdapterPart };
  return split === null ? null : { ...split, suffix: name.slice(split.layer.length) };
}

const FACTORS: readonly AdapterPart[] = ['up', 'down', 'diff', 'w1a', 'w1b', 'k1', 'k1a', 'k2', 'k2a'];

/** Whether a tensor is of a change of the model itself. */
export function isNetworkFactor(name: string): boolean {
  const split = splitOwnName(name);
  return split !== null && FACTORS.includes(split.part) && ownLayer(split.layer).component === 'network';
}

/** kohya's name of a layer, `_` for dots; `null` where no prefix of kohya's says its network. */
export function underscoredOwn({ own }: AdapterModule): string | null {
  if (own === undefined) return null;
  const { name } = own;
  if (!name.includes('.')) return name;
  const { path, encoder } = pathOf(name);
  const rest = path.replaceAll('.', '_');
  if (encoder !== null) return /^te\d$/.test(encoder) ? `lora_${encoder}_${rest}` : null;
  return `lora_${name.startsWith('transformer.') ? 'transformer' : 'unet'}_${rest}`;
}

/** The path of a layer with its dots, without network; `null` where the file has `_` for them. */
export function dottedOwn({ own }: AdapterModule): string | null {
  if (own === undefined || !own.name.includes('.')) return null;
  return pathOf(own.name).path;
}

/** The same behind the network that the file says. */
export function diffusersOwn({ own }: AdapterModule): string | null {
  return own?.name.includes('.') ? own.name : null;
}

/** Why a scheme of dotted paths cannot hold a layer. */
export const noDots = 'the file has _ for the dots of its name, and where they were is not known';

const suffixIn = ({ name, suffixes }: OwnSpelling, part: AdapterPart): string => {
  const own = suffixes.get(part);
  if (own !== undefined) return own;
  if (name.includes('.') && (part === 'up' || part === 'down')) {
    return part === 'up' ? '.lora_B.weight' : '.lora_A.weight';
  }
  return `.${partSuffix[part]}`;
};

/** Name of a tensor as the file spells it; a part that the file has not, as its kind of names has it. */
export function ownKey(own: OwnSpelling, part: AdapterPart): string {
  return own.name + suffixIn(own, part);
}

/** Whether a file says alpha layer by layer; where not, its readers take up · down as it is. */
export function storesAlpha(own: OwnSpelling): boolean {
  return own.suffixes.has('alpha') || suffixIn(own, 'up').includes('lora_up');
}

/**
 * Names for layers that one file lacks, as that file would call them: its prefix, its dots, its suffixes. Layers that it has, and
 * those whose dots are not known where it has dots, stay as they are.
 */
export function spelledAlike(layers: Iterable<AdapterModule>): <T extends AdapterModule>(module: T) => T {
  const samples = new Map<string, OwnSpelling>();
  const known = new Set<string>();
  for (const layer of layers) {
    const { own } = layer;
    if (own === undefined) continue;
    known.add(adapterModuleId(layer));
    const kind = networkOf(layer);
    if (samples.get(kind)?.suffixes.has('up') !== true) samples.set(kind, own);
  }
  return (module) => {
    const sample = samples.get(networkOf(module));
    if (module.own === undefined || sample === undefined || known.has(adapterModuleId(module))) return module;
    const path = sample.name.includes('.')
      ? dottedOwn(module)
      : pathOf(module.own.name).path.replaceAll('.', '_');
    if (path === null) return module;
    const prefix = sample.name.slice(0, sample.name.length - pathOf(sample.name).path.length);
    return { ...module, own: { name: prefix + path, suffixes: sample.suffixes } };
  };
}

/** The model, or one of its text encoders. */
function networkOf({ component, layerName }: AdapterModule): string {
  return component === 'encoder' ? layerName.split('_', 1)[0]! : component;
}
