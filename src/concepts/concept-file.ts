/**
 * A concept is what an adapter's file says, where fusion and sampling can use all of it: plain LoRA layers of Stable
 * Diffusion 1.x, and words with one vector, or one per cross-attention layer. Everything else is refused by name.
 */

import type { Adapter, AdapterLayer } from '../adapters/adapter.ts';
import { loadAdapter, type ReadAdapterOptions, readAdapter } from '../adapters/read.ts';
import { FormatError, MismatchError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import * as path from '../io/platform/paths.ts';
import { BASE_FAMILIES, familyNamed, hasBase, titlesOf } from '../models/families/families.ts';
import type { Concept, ConceptFormat, PlainLayer } from './concept.ts';

export type LoadConceptOptions = Partial<Pick<ReadAdapterOptions, 'modules' | 'table'>>;

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

/** An opened file as a concept. @throws as `loadConcept` */
export function readConcept(file: TensorFile, options: LoadConceptOptions = {}): Concept {
  return conceptOf(readAdapter(file, options));
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
    tokens: words.map(({ word, embedding }) => ({ word, embedding })),
    layers: adapter.layers as ReadonlyMap<string, PlainLayer>,
    metadata,
  };
}

/** Names by which the family was not known, if any. */
function layerHint({ layers }: Adapter): string {
  const names = [...layers.values()].flatMap(({ own }) => (own === undefined ? [] : [excerpt(own.name)]));
  const few = names.slice(0, 2).join(', ');
  return few === '' ? '' : ` (its layers are ${few}${names.length > 2 ? ', …' : ''})`;
}

/** What `convertFile` is told to make a LoRA of a file. */
const plain = '`format: kohya`';
const withWords = '`format: ed-lora`';
const onBase = '`format: kohya` `base: <model>`';

/** An entry that no concept has. */
interface Misfit {
  readonly name: string;
  readonly kind: string;
  /** How to make a LoRA of it, if at all. */
  readonly convert?: string;
  /** Whether that leaves the entry out. */
  readonly drop?: boolean;
}

/** Schemes that are none of a concept, all their entries together. */
function schemeMisfits({ scheme, layers, words }: Adapter): Misfit[] {
  const [kind, convert] =
    scheme === 'cloneofsimo'
      ? ["cloneofsimo's positional names", plain]
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
    for (const { word } of words)
      yield { name: word, kind: 'embeddings bundled into a LoRA', convert: withWords };
  }
  // Without a layer, nothing would be left.
  const rest = layers.size === 0 ? {} : { convert: plain, drop: true };
  for (const { name, reason } of unusable) yield { name, kind: reason, ...rest };
  for (const name of stray) yield { name, kind: 'no tensor' };
}

function layerMisfit(layer: AdapterLayer): Omit<Misfit, 'name'> | null {
  if (layer.doraScale !== null) return { kind: 'DoRA', convert: onBase };
  if (layer.kind === 'loha') return { kind: 'LyCORIS LoHa', convert: plain };
  if (layer.kind === 'lokr') return { kind: 'LyCORIS LoKr', convert: plain };
  if (layer.kind === 'ia3') return { kind: 'LyCORIS (IA)³', convert: onBase };
  if (layer.kind === 'diff') return { kind: 'full differences', convert: plain };
  if (layer.kind === 'weight') return { kind: 'full weights' };
  if (layer.mid !== null) return { kind: 'LyCORIS LoCon with a Tucker core', convert: plain };
  if (layer.biasDiff !== null) return { kind: 'differences of biases', convert: plain };
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
  const lines = misfits.map(({ convert }) => convert);
  if (lines.includes(undefined)) return '';
  const options = lines.includes(onBase) ? onBase : lines.includes(withWords) ? withWords : plain;
  const without = misfits.some(({ drop }) => drop === true) ? ' `drop`' : '';
  const { dir, name } = path.parse(file);
  const target = path.join(dir, `${name}-lora.safetensors`);
  return `; concepts are plain LoRA: \`convertFile\` ${file} ${target} ${options}${without}`;
}
