/**
 * Files of cloneofsimo/lora: `unet:{i}:up`, `unet:{i}:down`, numbered as the library walks a diffusers model, with no
 * layer names at all. The walk is that of the model's modules (down, up, middle blocks) and depends on the diffusers
 * version: feed-forward before or after the second attention. Shapes tell which, and that the count is right.
 * Source: cloneofsimo/lora, lora_diffusion/lora.py (UNET_DEFAULT_TARGET_REPLACE, TEXT_ENCODER_DEFAULT_TARGET_REPLACE,
 * save_safeloras_with_embeds); module order of diffusers' UNet2DConditionModel. Scale is 1, nothing is divided.
 */
import { FormatError, UsageError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { AdapterModule } from '../../models/families/adapter-layers.ts';
import { adapterModuleId, modulesOf, refusedByFamily } from '../../models/families/adapter-layers.ts';
import { DEFAULT_FAMILY } from '../../models/families/families.ts';
import type { AdapterWord, LoraLayer } from '../adapter.ts';
import { collectAdapterLayers } from '../layer-parts.ts';
import { spreadTokens } from '../word-forms.ts';
import { describe } from './describe.ts';
import type { AdapterName } from './names.ts';
import type { Scheme, SchemeReader } from './scheme.ts';
import { embeddingRows } from './textual-inversion.ts';

const pattern = /^(unet|text_encoder):(\d+):(up|down)$/;

/** Whether a tensor name is positional. */
export function isPositional(name: string): boolean {
  return pattern.test(name);
}

const attention = ['to_q', 'to_k', 'to_v', 'to_out.0'];
const heads = (name: string): string[] => attention.map((linear) => `${name}.${linear}`);

/** Layers of one transformer block in the orders that occur; the first is what current diffusers gives. */
const blockOrders: readonly (readonly string[])[] = [
  [...heads('attn1'), ...heads('attn2'), 'ff.net.0.proj'],
  [...heads('attn1'), 'ff.net.0.proj', ...heads('attn2')],
  [...heads('attn1'), ...heads('attn2')],
];

/** Transformer blocks of SD 1.x as `named_modules` gives them. */
function transformerBlocks(): string[] {
  const attentions = new Set(
    modulesOf(DEFAULT_FAMILY.name).flatMap(
      ({ layerName }) => /^(.+\.transformer_blocks\.0)\./.exec(layerName)?.[1] ?? [],
    ),
  );
  const rank = (path: string): number => (path.startsWith('down_') ? 0 : path.startsWith('up_') ? 1 : 2);
  return [...attentions].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b, 'en', { numeric: true }));
}

/**
 * The layers of a component in the library's order.
 * @param order which of the block orders; text encoders have one
 */
export function positionalLayers(component: 'unet' | 'text_encoder', order = 0): AdapterModule[] {
  if (component === 'text_encoder') {
    return Array.from({ length: 12 }, (_, i) =>
      ['k_proj', 'v_proj', 'q_proj', 'out_proj'].map((linear) => ({
        component,
        layerName: `text_model.encoder.layers.${i}.self_attn.${linear}`,
      })),
    ).flat();
  }
  return transformerBlocks().flatMap((block) =>
    blockOrders[order]!.map((layer) => ({ component, layerName: `${block}.${layer}` })),
  );
}

/**
 * Who is who in a positional file.
 * @returns a name reader for `collectAdapterLayers`
 * @throws {FormatError} if counts or shapes fit none of the known walks
 */
export function positionalNames(
  file: string,
  tensors: ReadonlyMap<string, RawTensor>,
): (name: string) => AdapterName | null {
  const layers = { unet: new Map<number, Pair>(), text_encoder: new Map<number, Pair>() };
  for (const tensor of tensors.values()) {
    const match = pattern.exec(tensor.name);
    if (match === null) continue;
    const own = layers[match[1] as 'unet' | 'text_encoder'];
    const index = Number(match[2]);
    own.set(index, { ...own.get(index), [match[3]!]: tensor });
  }
  const unet = unetWalk(file, layers.unet);
  const text = positionalLayers('text_encoder');
  if (layers.text_encoder.size > 0) {
    // Text encoders of other depths count as far as they go.
    expectCount(
      file,
      'text_encoder',
      layers.text_encoder,
      [...text.keys()].filter((i) => i % 4 === 3).map((i) => i + 1),
    );
  }
  return (name) => {
    const match = pattern.exec(name);
    if (match === null) return null;
    const module = (match[1] === 'unet' ? unet : text)[Number(match[2])];
    return module === undefined ? null : { ...module, part: match[3] as 'up' | 'down' };
  };
}

interface Pair {
  readonly up?: RawTensor;
  readonly down?: RawTensor;
}

function expectCount(
  file: string,
  component: string,
  pairs: ReadonlyMap<number, Pair>,
  counts: readonly number[],
): void {
  const dense = [...pairs.keys()].every((index) => index < pairs.size);
  if (!dense || !counts.includes(pairs.size)) {
    throw new FormatError(
      file,
      `${component}: expected ${counts.join(' or ')} numbered layers of Stable Diffusion 1.x without gaps, got ${pairs.size}; positional files can only be read complete`,
    );
  }
}

/** The walk whose shapes fit: queries are square, feed-forward is eight times as wide, keys read the text. */
function unetWalk(file: string, pairs: ReadonlyMap<number, Pair>): AdapterModule[] {
  if (pairs.size === 0) return [];
  const walks = blockOrders.map((_, order) => positionalLayers('unet', order));
  expectCount(file, 'unet', pairs, [...new Set(walks.map((walk) => walk.length))]);
  const fitting = walks.filter((walk) => walk.length === pairs.size && fits(walk, pairs));
  if (fitting.length === 0) {
    throw new FormatError(
      file,
      'unet: the shapes fit no order in which Stable Diffusion 1.x layers are numbered; convolutions included (extended LoRA)?',
    );
  }
  return fitting[0]!;
}

function fits(walk: readonly AdapterModule[], pairs: ReadonlyMap<number, Pair>): boolean {
  let context: number | null = null;
  let channels = 0;
  return walk.every(({ layerName }, i) => {
    const m = pairs.get(i)?.up?.shape[0];
    const n = pairs.get(i)?.down?.shape[1];
    if (m === undefined || n === undefined) return true;
    if (layerName.endsWith('attn1.to_q')) channels = m;
    if (layerName.endsWith('ff.net.0.proj')) return m === 8 * channels && n === channels;
    if (/attn2\.to_[kv]$/.test(layerName)) {
      context ??= n;
      return m === channels && n === context;
    }
    return m === channels && n === channels;
  });
}

/**
 * Embeddings stored under their words, marked `<embed>` in the header.
 * @throws {FormatError} if one is no vector of numbers
 */
export function positionalWords(
  file: string,
  tensors: ReadonlyMap<string, RawTensor>,
  metadata: ReadonlyMap<string, string>,
): AdapterWord[] {
  return [...tensors.values()].flatMap((tensor) => {
    const isWord =
      metadata.get(tensor.name) === '<embed>' || (/^<.+>$/.test(tensor.name) && isFloatDType(tensor.dtype));
    if (isPositional(tensor.name) || !isWord || tensor.shape.length !== 1) return [];
    const embedding = embeddingRows(file, tensor.name, tensor);
    return [{ word: tensor.name, embedding, rows: 'tokens' as const, encoder: 'text_encoder' as const }];
  });
}

const reader: SchemeReader = {
  name: 'cloneofsimo',
  examples: ['unet:0:down'],
  recognises: (file) => [...file.tensors.keys()].filter(isPositional).length,
  read: (file, { architecture }) => {
    const words = positionalWords(file.path, file.tensors, file.metadata);
    const known = new Set(words.map(({ word }) => word));
    const layers = collectAdapterLayers(
      file.path,
      [...file.tensors.values()].filter(({ name }) => !known.has(name)),
      { architecture, parse: positionalNames(file.path, file.tensors), scale: () => 1 },
    );
    return { ...layers, words };
  },
};

/** Factors by number, and the header that says what was walked. @throws {UsageError} if the walk has gaps */
function numbered(
  file: string,
  layers: readonly LoraLayer[],
): { tensors: RawTensor[]; header: Record<string, string> } {
  const byId = new Map(layers.map((layer) => [adapterModuleId(layer), layer]));
  const tensors: RawTensor[] = [];
  const header: Record<string, string> = {};
  for (const component of ['unet', 'text_encoder'] as const) {
    const own = layers.filter((layer) => layer.component === component);
    if (own.length === 0) continue;
    const feedForward = own.some(({ layerName }) => layerName.includes('.ff.'));
    const walk: AdapterModule[] =
      component === 'text_encoder'
        ? positionalLayers(component).slice(0, Math.ceil(own.length / 4) * 4)
        : positionalLayers(component, feedForward ? 0 : 2);
    const missing = walk.map(adapterModuleId).filter((id) => !byId.has(id));
    if (missing.length > 0) {
      throw new UsageError(
        `${file}: numbered layers must be complete, ${missing.length} of ${walk.length} are missing: ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', …' : ''}`,
      );
    }
    walk.forEach((module, i) => {
      const layer = byId.get(adapterModuleId(module))!;
      header[`${component}:${i}:rank`] = String(layer.rank);
      tensors.push(renamed(layer.up, `${component}:${i}:up`), renamed(layer.down, `${component}:${i}:down`));
    });
    header[component] = JSON.stringify(
      component === 'text_encoder'
        ? ['CLIPAttention']
        : ['CrossAttention', 'Attention', ...(feedForward ? ['GEGLU'] : [])],
    );
  }
  return { tensors, header };
}

export const cloneofsimo: Scheme = {
  name: 'cloneofsimo',
  title: 'cloneofsimo/lora: numbered layers',
  reader,
  folder: false,
  alpha: 'none',
  anyKind: false,
  words: 'tokens',
  secondEncoder: false,
  loses: 'layers other than attention and the first feed-forward; alpha (folded into the factors)',
  refuses: (layer, architecture) => {
    const refused = refusedByFamily('cloneofsimo', architecture, layer.component);
    if (refused !== null) return refused;
    const component = layer.component as 'unet' | 'text_encoder';
    const known = positionalLayers(component).some(({ layerName }) => layerName === layer.layerName);
    return known ? null : 'the scheme has no number for this layer';
  },
  key: null,
  encode: (output, stored, { target }) => {
    const layers = stored as readonly LoraLayer[];
    const { tensors, header } = numbered(target, layers);
    const words = spreadTokens(output.words);
    for (const { word, embedding } of words) {
      const [width, stride] = [embedding.shape[1]!, embedding.strides[1]!];
      tensors.push({ ...embedding, name: word, shape: [width], strides: [stride] });
      header[word] = '<embed>';
    }
    return [{ place: '', tensors, header: { ...describe(output), ...header }, layers, words }];
  },
};
