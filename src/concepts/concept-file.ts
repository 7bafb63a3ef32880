/**
 * A concept is what an adapter's file says, where fusion and sampling can use all of it: plain LoRA layers of Stable
 * Diffusion 1.x, and words with one vector, or one per cross-attention layer. Everything else is refused by name.
 */

import { type Adapter, type AdapterLayer, kernelArea } from '../adapters/adapter.ts';
import { factorRank, layerExtent } from '../adapters/layer-limits.ts';
import { loadAdapter, type ReadAdapterOptions } from '../adapters/read.ts';
import { FormatError, MismatchError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import * as path from '../io/platform/paths.ts';
import {
  BASE_FAMILIES,
  familyNamed,
  hasBase,
  titlesOf,
  UNLISTED_FAMILY,
} from '../models/families/families.ts';
import type { Concept, ConceptFormat, PlainLayer } from './concept.ts';
import { tokensOf } from './concept-words.ts';

export type LoadConceptOptions = Pick<ReadAdapterOptions, 'table'>;

/**
 * Open a concept: an ED-LoRA file (`.pth` or safetensors), a LoRA file (kohya's, diffusers' or PEFT's names), a PEFT
 * folder, or a folder with `pytorch_lora_weights`. The content decides, not the name. Reads headers and alphas only;
 * `checkFinite` reads the rest.
 * @throws {FormatError} if the file is damaged, of an unknown layout, or has entries that no concept has (all listed)
 * @throws {MismatchError} if it is for another family
 */
export async function loadConcept(file: string, options: LoadConceptOptions = {}): Promise<Concept> {
  return conceptOf(await loadAdapter(file, options));
}

const FORMATS: Readonly<Record<string, ConceptFormat>> = {
  kohya: 'kohya',
  lycoris: 'kohya',
  comfyui: 'kohya',
  diffusers: 'diffusers',
  peft: 'peft',
  'ed-lora': 'ed-lora',
};

/** An adapter as a concept. @throws as `loadConcept` */
export function conceptOf(adapter: Adapter): Concept {
  const { scheme, architecture, words, metadata } = adapter;
  const family = familyNamed(architecture);
  if (!hasBase(family)) {
    throw new MismatchError(
      `${adapter.path}: expected a concept for ${titlesOf(BASE_FAMILIES)}, got one for ${family.title}${layerHint(adapter)}`,
    );
  }
  const format = FORMATS[scheme];
  const misfits = format === undefined ? schemeMisfits(adapter) : [...misfitsOf(adapter)];
  if (format === undefined || misfits.length > 0) throw misfitError(adapter.path, misfits);
  return {
    path: adapter.path,
    format,
    family: architecture,
    tokens: tokensOf(words),
    layers: adapter.layers as ReadonlyMap<string, PlainLayer>,
    metadata,
  };
}

/** Names by which the family was not known, if any. */
function layerHint({ layers, architecture }: Adapter): string {
  if (architecture !== UNLISTED_FAMILY.name) return '';
  const names = [...layers.values()].flatMap(({ own }) => (own === undefined ? [] : [excerpt(own.name)]));
  const few = names.slice(0, 2).join(', ');
  return few === '' ? '' : ` (its layers are ${few}${names.length > 2 ? ', …' : ''})`;
}

/** What `convertFile` must be told to make a LoRA of an entry. */
interface Conversion {
  /** The model that it was trained on. */
  readonly base?: boolean;
  /** A rank, since its own is the full one. */
  readonly rank?: boolean;
  /** ED-LoRA's names, which hold words. */
  readonly words?: boolean;
  /** That the entry, or a part of it, is left out. */
  readonly drop?: boolean;
}

/** An entry that no concept has. */
interface Misfit {
  readonly name: string;
  readonly kind: string;
  /** How to make a LoRA of it, if at all. */
  readonly convert?: Conversion | undefined;
}

/** Schemes that are none of a concept, all their entries together. */
function schemeMisfits({ scheme, layers, words }: Adapter): Misfit[] {
  const [kind, convert]: [string, Conversion?] =
    scheme === 'cloneofsimo'
      ? ["cloneofsimo's positional names", {}]
      : scheme === 'embedding'
        ? ['a textual inversion embedding']
        : ['full weights'];
  return [...layers.keys(), ...words.map(({ word }) => word)].map((name) => ({ name, kind, convert }));
}

function* misfitsOf({ layers, words, unusable, stray, scheme }: Adapter): Generator<Misfit> {
  for (const [name, layer] of layers) {
    const misfit = layerMisfit(layer);
    if (misfit !== null) yield { name, ...misfit };
  }
  if (scheme !== 'ed-lora') {
    // ED-LoRA's files hold the words, and no kernels.
    const drop = [...layers.values()].some(({ kernel }) => kernelArea(kernel) > 1);
    for (const { word } of words)
      yield { name: word, kind: 'embeddings bundled into a LoRA', convert: { words: true, drop } };
  }
  // Without a layer, nothing would be left.
  const rest = layers.size === 0 ? {} : { convert: { drop: true } };
  for (const { name, reason } of unusable) yield { name, kind: reason, ...rest };
  for (const name of stray) yield { name, kind: 'no tensor' };
}

function layerMisfit(layer: AdapterLayer): Omit<Misfit, 'name'> | null {
  const { shape } = layerExtent(layer);
  const own: Conversion = {
    rank: shape === null || factorRank(layer) >= Math.min(...shape),
    drop: layer.biasDiff !== null,
  };
  if (layer.doraScale !== null) return { kind: 'DoRA', convert: { ...own, base: true } };
  if (layer.kind === 'loha') return { kind: 'LyCORIS LoHa', convert: own };
  if (layer.kind === 'lokr') return { kind: 'LyCORIS LoKr', convert: own };
  if (layer.kind === 'ia3') return { kind: 'LyCORIS (IA)³', convert: { ...own, base: true } };
  if (layer.kind === 'diff') return { kind: 'full differences', convert: own };
  if (layer.kind === 'weight') return { kind: 'full weights' };
  if (layer.mid !== null) return { kind: 'LyCORIS LoCon with a Tucker core', convert: own };
  if (layer.biasDiff !== null) return { kind: 'differences of biases', convert: { drop: true } };
  return null;
}

function misfitError(file: string, misfits: readonly Misfit[]): FormatError {
  const kinds = [...new Set(misfits.map(({ kind }) => kind))];
  const listed = misfits.slice(0, 40).map(({ name }) => `\n  ${excerpt(name)}`);
  if (misfits.length > listed.length) listed.push(`\n  … and ${misfits.length - listed.length} more`);
  return new FormatError(
    file,
    `${misfits.length} ${misfits.length === 1 ? 'entry is' : 'entries are'} no plain LoRA pair and no word of a concept (${kinds.join(', ')}${convertHint(file, misfits)}):${listed.join('')}`,
    { tensor: misfits[0]!.name },
  );
}

/** The call that makes a LoRA of a file, if every kind in it has one. */
function convertHint(file: string, misfits: readonly Misfit[]): string {
  const needs = misfits.flatMap(({ convert }) => convert ?? []);
  if (needs.length < misfits.length) return '';
  const options = [
    needs.some(({ words }) => words) ? '`format: ed-lora`' : '`format: kohya`',
    ...(needs.some(({ base }) => base) ? ['`base: <model>`'] : []),
    ...(needs.some(({ rank }) => rank) ? ['`rank: 16`'] : []),
    ...(needs.some(({ drop }) => drop) ? ['`drop`'] : []),
  ].join(' ');
  const { dir, name } = path.parse(file);
  const target = path.join(dir, `${name}-lora.safetensors`);
  return `; concepts are plain LoRA: \`convertFile\` ${file} ${target} ${options}`;
}
