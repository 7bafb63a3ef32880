/**
 * Custom Diffusion's delta files. In spite of the name they hold the changed weights themselves, keys and values of the
 * cross-attentions: `unet.<layer>.weight` (the authors' diffusers code), `….processor.to_k_custom_diffusion.weight`
 * (diffusers' own), `state_dict.model.diffusion_model.….weight` (the authors' CompVis code), or, compressed,
 * `<layer>.u` and `.v` with ΔW = u v. Words lie under `modifier_token` or `embed`.
 * Source: adobe-research/custom-diffusion@7c19c9a, src/diffusers_model_pipeline.py, src/compress.py.
 */
import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import type { RawTensor } from '../../formats/raw-tensor.ts';
import { type AdapterModule, adapterModuleId } from '../../models/families/adapter-layers.ts';
import { DEFAULT_FAMILY } from '../../models/families/families.ts';
import { isKnownLayer } from '../../models/families/known-layers.ts';
import { ldmStructureOf, ldmUnetNames } from '../../models/keys/ldm.ts';
import type { AdapterLayer, AdapterWord } from '../adapter.ts';
import { excessOf } from '../layer-limits.ts';
import { assembleLayer } from '../layer-parts.ts';
import type { SchemeReader } from './scheme.ts';
import { embeddingRows } from './textual-inversion.ts';

const ldm = ldmUnetNames(ldmStructureOf(DEFAULT_FAMILY.adapters.unet));

interface Parsed extends AdapterModule {
  readonly part: 'weight' | 'u' | 'v';
}

/** Understand one name; `null` if it is none of these. */
function parse(name: string): Parsed | null {
  let own = name.replace(/^(unet|state_dict)\./, '');
  if (own.startsWith('model.diffusion_model.')) own = ldm.fromLdm(own) ?? own;
  const processor = /^(.+\.attn[12])\.processor\.(to_[qkv]|to_out)_custom_diffusion(\.0)?\.weight$/.exec(own);
  if (processor !== null) own = `${processor[1]}.${processor[2]}${processor[3] ?? ''}.weight`;
  const match = /^(.+\.attn[12]\.to_(?:q|k|v|out\.0))\.(?:weight(?:\.(u|v))?|(u|v))$/.exec(own);
  if (match === null) return null;
  const module = { component: 'unet' as const, layerName: match[1]! };
  return isKnownLayer(module)
    ? { ...module, part: (match[2] ?? match[3] ?? 'weight') as Parsed['part'] }
    : null;
}

/** Whether a tensor name is of this layout. */
export function isCustomDiffusion(name: string): boolean {
  return parse(name) !== null || name.startsWith('modifier_token.');
}

/**
 * Layers, words, and the names that are neither.
 * @throws {FormatError} if a word is no [n, D] of numbers, or a layer's tensors are not of numbers or larger than a layer
 */
export function readCustomDiffusion(
  file: string,
  tensors: ReadonlyMap<string, RawTensor>,
): {
  layers: Map<string, AdapterLayer>;
  words: AdapterWord[];
  unknown: string[];
} {
  const parts = new Map<
    string,
    { module: AdapterModule; weight?: RawTensor; u?: RawTensor; v?: RawTensor }
  >();
  const words: AdapterWord[] = [];
  const unknown: string[] = [];
  for (const tensor of tensors.values()) {
    const word = /^(?:modifier_token|embed)\.(.+)$/s.exec(tensor.name)?.[1];
    if (word !== undefined) {
      const embedding = embeddingRows(file, word, tensor);
      words.push({ word, embedding, rows: 'tokens', encoder: 'text_encoder' });
      continue;
    }
    const name = parse(tensor.name);
    if (name === null) {
      unknown.push(tensor.name);
      continue;
    }
    const module = { component: name.component, layerName: name.layerName };
    const id = adapterModuleId(module);
    parts.set(id, { ...(parts.get(id) ?? { module }), [name.part]: tensor });
  }
  const layers = new Map<string, AdapterLayer>();
  for (const [id, { module, weight, u, v }] of parts) {
    if (weight !== undefined && weight.shape.length === 2) {
      layers.set(id, wholeWeight(file, module, weight));
    } else if (u !== undefined && v !== undefined) {
      const pair = new Map([['up', u] as const, ['down', v] as const]);
      layers.set(
        id,
        assembleLayer(file, module, pair, { architecture: DEFAULT_FAMILY.name, scale: () => 1 }),
      );
    } else {
      unknown.push(...[weight, u, v].flatMap((tensor) => (tensor === undefined ? [] : [tensor.name])));
    }
  }
  return { layers, words, unknown };
}

function wholeWeight(file: string, module: AdapterModule, weight: RawTensor): AdapterLayer {
  const { name, dtype, shape } = weight;
  if (!isFloatDType(dtype) || shape.includes(0)) {
    throw new FormatError(file, `${name}: expected a matrix of numbers, got ${dtype} [${shape.join(', ')}]`, {
      tensor: name,
    });
  }
  const plain = { ...module, scale: 1, rank: null, kernel: null, doraScale: null, biasDiff: null };
  const layer: AdapterLayer = { ...plain, kind: 'weight', weight };
  const excess = excessOf(module, layer);
  if (excess !== null) throw new FormatError(file, `${name}: ${excess}`, { tensor: name });
  return layer;
}

export const customDiffusionReader: SchemeReader = {
  name: 'custom-diffusion',
  examples: ['unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight'],
  recognises: (file) => [...file.tensors.keys()].filter(isCustomDiffusion).length,
  read: (file) => ({ ...readCustomDiffusion(file.path, file.tensors), unusable: [] }),
};
