/**
 * What one tensor name of an adapter file says: layer and part. One function per spelling, all over the same parts,
 * which bear LyCORIS' names.
 */

import {
  type AdapterComponent,
  type AdapterModule,
  type Architecture,
  kohyaTable,
} from '../../models/families/adapter-layers.ts';
import { adapterFamily } from '../../models/families/families.ts';
import { isKnownLayer } from '../../models/families/known-layers.ts';
import type { LoraPart } from '../../models/keys/module-path.ts';
import { parseDiffusersLoraKey } from './diffusers-names.ts';
import { parseEdLoraKey } from './ed-lora-names.ts';
import { moduleOfKohyaName } from './kohya-names.ts';
import { parsePeftKey } from './peft-names.ts';

const suffixes = {
  up: 'lora_up.weight',
  down: 'lora_down.weight',
  mid: 'lora_mid.weight',
  alpha: 'alpha',
  dora: 'dora_scale',
  w1a: 'hada_w1_a',
  w1b: 'hada_w1_b',
  w2a: 'hada_w2_a',
  w2b: 'hada_w2_b',
  t1: 'hada_t1',
  t2: 'hada_t2',
  k1: 'lokr_w1',
  k1a: 'lokr_w1_a',
  k1b: 'lokr_w1_b',
  k2: 'lokr_w2',
  k2a: 'lokr_w2_a',
  k2b: 'lokr_w2_b',
  k1t: 'lokr_t1',
  k2t: 'lokr_t2',
  diff: 'diff',
  biasDiff: 'diff_b',
  ia3: 'weight',
  onInput: 'on_input',
} as const;

/** What a tensor is to its layer. */
export type AdapterPart = keyof typeof suffixes;

/** Suffix of a part in kohya's and LyCORIS' files. */
export const partSuffix: Readonly<Record<AdapterPart, string>> = suffixes;

const parts = new Map<string, AdapterPart>(
  Object.entries(suffixes).map(([part, suffix]) => [suffix, part as AdapterPart]),
);

export interface AdapterName extends AdapterModule {
  readonly part: AdapterPart;
}

/** Parts of other methods, which cannot become a LoRA or are not layers' weights; with what they are. */
const foreignParts: readonly (readonly [RegExp, string])[] = [
  [/\.(oft_blocks|oft_diag|boft_blocks|rescale|constraint)$/, 'OFT/BOFT: a rotation of the weight'],
  [/\.(a1|a2|b1|b2|bm)\.weight$/, 'GLoRA'],
  [/\.(w_norm|b_norm)$/, 'a normalisation layer'],
  [/\.(bias_(indices|values|size))$/, 'a sparse bias of LyCORIS'],
  [/\.scalar$/, 'a trained scalar'],
];

/** Why a recognisable entry is not usable; `null` for a name that says nothing. */
export function foreignPart(name: string): string | null {
  return foreignParts.find(([pattern]) => pattern.test(name))?.[1] ?? null;
}

/** Names that kohya's and LyCORIS' files use, of whatever architecture. */
export function isKohyaStyle(name: string): boolean {
  return /^(lora_(unet|te\d?)_|lycoris_)/.test(name);
}

/** LyCORIS' own prefix as kohya's: `lycoris_unet_…`, `lycoris_te_…`, or the bare path of a UNet or text encoder. */
function canonicalPrefix(module: string): string {
  const lycoris = /^lycoris_(.+)$/.exec(module);
  if (lycoris === null) return module;
  const rest = lycoris[1]!;
  if (/^(unet|te\d?)_/.test(rest)) return `lora_${rest}`;
  const text = /^text_encoder(_2)?_(.+)$/.exec(rest);
  if (text !== null) return `lora_te${text[1] === undefined ? '' : '2'}_${text[2]}`;
  return /^text_model_/.test(rest) ? `lora_te_${rest}` : `lora_unet_${rest}`;
}

/**
 * @param names `kohyaNames` of a base of its own; without it the architecture decides
 * @returns `null` for a name that is none, or of a layer that the architecture lacks
 */
export function parseKohyaStyle(
  name: string,
  architecture: Architecture,
  names?: ReadonlyMap<string, AdapterModule>,
): AdapterName | null {
  const dot = name.indexOf('.');
  const part = dot < 0 ? undefined : parts.get(name.slice(dot + 1));
  if (part === undefined) return null;
  const { kohyaPrefixes, anyDepth } = adapterFamily(architecture).adapters;
  // Some tools number the only text encoder, some do not number the first.
  const prefix = canonicalPrefix(name.slice(0, dot)).replace(/^lora_te1?_/, kohyaPrefixes.text_encoder!);
  const module =
    names?.get(prefix) ??
    kohyaTable(architecture).get(prefix) ??
    (anyDepth ? moduleOfKohyaName(prefix) : null);
  return module === null || module === undefined ? null : { ...moduleOf(module), part };
}

function moduleOf({ component, layerName }: AdapterModule): AdapterModule {
  return { component, layerName };
}

const secondEncoder = /^text_encoder_2\./;

/** diffusers' spellings, with DoRA's `lora_magnitude_vector` and `text_encoder_2`. */
export function parseDiffusersStyle(name: string): AdapterName | null {
  const second = secondEncoder.test(name);
  const own = second ? name.replace(secondEncoder, 'text_encoder.') : name;
  const magnitude = /^(.+)\.lora_magnitude_vector(?:\.weight)?$/.exec(own);
  const key = parseDiffusersLoraKey(magnitude === null ? own : `${magnitude[1]}.alpha`);
  return key === null || !isKnownLayer(key) ? null : named(key, magnitude !== null, second);
}

/** PEFT's names; `component` where the folder tells it. */
export function parsePeftStyle(name: string, component: AdapterComponent | null): AdapterName | null {
  const magnitude = /^(.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?$/.exec(name);
  const key = parsePeftKey(magnitude === null ? name : `${magnitude[1]}.lora_A.weight`);
  return key === null || !isKnownLayer(key)
    ? null
    : named(key, magnitude !== null, component === 'text_encoder_2' && key.component === 'text_encoder');
}

/** Mix-of-Show's names, flat or below `params`. */
export function parseEdLoraStyle(name: string): AdapterName | null {
  const key = parseEdLoraKey(name.replace(/^params\./, ''));
  return key === null || !isKnownLayer(key) ? null : named(key, false, false);
}

function named(
  { component, layerName, part }: { component: AdapterComponent; layerName: string; part: LoraPart },
  magnitude: boolean,
  second: boolean,
): AdapterName {
  return {
    component: second ? 'text_encoder_2' : component,
    layerName,
    part: magnitude ? 'dora' : part,
  };
}
