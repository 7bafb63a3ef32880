/**
 * Files and folders to `Adapter`: LoRA-like files of any family, by our names of its layers or by the file's own, and files of
 * embeddings. Headers and alphas are read, nothing else.
 */

import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { exists, infoOf } from '../io/file-info.ts';
import { readdirSync } from '../io/platform/disk.ts';
import * as path from '../io/platform/paths.ts';
import type { AdapterComponent, AdapterModule, Architecture } from '../models/families/adapter-layers.ts';
import { componentsOf } from '../models/families/adapter-layers.ts';
import {
  ADAPTER_FAMILIES,
  DEFAULT_FAMILY,
  hasAdapters,
  layoutOf,
  UNLISTED_FAMILY,
} from '../models/families/families.ts';
import { readsPrompt } from '../models/families/family.ts';
import type { Adapter, AdapterLayer } from './adapter.ts';
import { familyOfAdapter } from './family-of-file.ts';
import { refuseUnlikelyNames } from './name-limits.ts';
import { readersOf, SCHEME_TABLE, type SchemeTable } from './schemes/index.ts';
import { isNetworkFactor } from './schemes/own-layers.ts';
import { adapterConfigName, baseOfPeft, readAdapterConfig } from './schemes/peft.ts';
import type { Content, ReadContext, SchemeReader } from './schemes/scheme.ts';
import { strayValues } from './stray-values.ts';

/**
 * Open an adapter: kohya, LyCORIS, diffusers (three spellings), PEFT folder, ED-LoRA, cloneofsimo, Custom Diffusion, or
 * embeddings; of a family whose layers are not listed here, by its own names. The content decides, not the name.
 * @throws {FormatError} if the file is damaged, of an unknown scheme (the nearest is named) or has names that mean nothing
 */
export async function loadAdapter(file: string, options: ReadAdapterOptions = {}): Promise<Adapter> {
  const info = infoOf(file);
  if (info === undefined) throw new FormatError(file, 'no such file or folder');
  if (!info.isDirectory()) return readAdapter(await openTensorFile(file), options);
  return readFolder(path.resolve(file), options);
}

export interface ReadAdapterOptions extends Omit<ReadContext, 'architecture'> {
  /** The schemes that a file may be in. Default: all. */
  readonly table?: SchemeTable;
}

/** An opened file as an adapter. @throws as `loadAdapter` */
export function readAdapter(file: TensorFile, options: ReadAdapterOptions = {}): Adapter {
  refuseUnlikelyNames(file);
  const stray = file.root === null ? [] : strayValues(file.root);
  if (file.tensors.size === 0 && stray.length > 0) {
    throw new FormatError(
      file.path,
      `expected LoRA layers or embeddings, got no tensors, but\n  ${stray
        .slice(0, 20)
        .map((name) => excerpt(name))
        .join('\n  ')}`,
    );
  }
  const { table = SCHEME_TABLE, ...told } = options;
  const { reader, architecture, content } = contentOf(file, told, table);
  const { layers, words, unusable, unknown } = content;
  const { name: scheme } = reader;
  // Beside something that can be read, names that mean nothing are listed as unusable.
  const readable = layers.size + words.length > 0 && !table.readOnly.includes(reader);
  if (unknown.length > 0 && !readable) refuseUnknown(file, scheme, unknown, readersOf(table));
  if (layers.size === 0 && words.length === 0 && unusable.length === 0) {
    throw new FormatError(file.path, 'expected LoRA layers or embeddings, the file holds neither');
  }
  const { path: location, metadata } = file;
  return {
    path: location,
    files: [location],
    scheme,
    architecture,
    layers,
    words,
    metadata,
    unusable,
    stray,
  };
}

interface ReadContent {
  readonly reader: SchemeReader;
  readonly architecture: Architecture;
  readonly content: Content;
}

/** A file by the names of a listed family, or else by its own. @throws {FormatError} if neither says anything */
function contentOf(file: TensorFile, told: Partial<ReadContext>, table: SchemeTable): ReadContent {
  const { config = {}, component, unlisted = false } = told;
  const family = familyOfAdapter(file, { base: baseOfPeft(config), component });
  let listed: ReadContent | null = null;
  const reader = hasAdapters(family) && !unlisted ? readerOf(file, table) : null;
  if (reader !== null) {
    const architecture = family.name;
    listed = { reader, architecture, content: reader.read(file, { ...told, architecture }) };
    if (!isOfAnotherModel(listed.content)) return listed;
  }
  const { anyFamily } = table;
  const architecture = hasAdapters(family) ? UNLISTED_FAMILY.name : family.name;
  if (anyFamily.recognises(file) > 0) {
    const content = anyFamily.read(file, { ...told, architecture });
    if (content.layers.size > 0) return { reader: anyFamily, architecture, content };
  }
  return listed ?? refuseUnknown(file, null, [...file.tensors.keys()], readersOf(table));
}

/** Whether a file changes layers of a model, and of none that is listed: text encoders are many families'. */
function isOfAnotherModel({ layers, unknown }: Content): boolean {
  const known = [...layers.values()].some(({ component }) => !readsPrompt(component));
  return !known && unknown.some(isNetworkFactor);
}

/** The reader that owns most names; `null` if none owns any. */
function readerOf(file: TensorFile, table: SchemeTable): SchemeReader | null {
  const readers = readersOf(table);
  const counts = readers.map(({ recognises }) => recognises(file));
  const most = Math.max(0, ...counts);
  if (most > 0) return readers[counts.indexOf(most)]!;
  return table.lastResort.recognises(file) > 0 ? table.lastResort : null;
}

/** @throws {FormatError} naming them, and the scheme or the one that is nearest */
function refuseUnknown(
  file: TensorFile,
  scheme: string | null,
  names: readonly string[],
  readers: readonly SchemeReader[],
): never {
  if (names.length === 0)
    throw new FormatError(file.path, 'expected LoRA layers or embeddings, got no tensors');
  const checkpoint = names.find((name) =>
    /^(model\.diffusion_model|first_stage_model|cond_stage_model)\./.test(name),
  );
  if (checkpoint !== undefined) {
    throw new FormatError(file.path, 'expected a LoRA or embeddings, got a whole checkpoint', {
      tensor: checkpoint,
    });
  }
  const nearest = scheme ?? nearestScheme(names, readers);
  const listed = names.slice(0, 20).map((name) => `\n  ${excerpt(name)}`);
  if (names.length > listed.length) listed.push(`\n  … and ${names.length - listed.length} more`);
  throw new FormatError(
    file.path,
    `${names.length} ${names.length === 1 ? 'entry is' : 'entries are'} of no known layer${
      nearest === null
        ? '; no known scheme is near'
        : scheme === null
          ? `; the nearest scheme is ${nearest}`
          : ` (scheme ${nearest})`
    }:${listed.join('')}`,
    { tensor: names[0]! },
  );
}

/** The scheme whose names share most parts with the first ones of a file; at least half of them. */
function nearestScheme(names: readonly string[], readers: readonly SchemeReader[]): string | null {
  const partsOf = (name: string): Set<string> =>
    new Set(name.split(/[.:]/).filter((part) => !/^\d+$/.test(part)));
  const examples = readers.flatMap(({ name, examples }) =>
    examples.map((example) => [example, name] as const),
  );
  let best: string | null = null;
  let most = 0.5;
  for (const name of names.slice(0, 50)) {
    const parts = partsOf(name);
    for (const [example, scheme] of examples) {
      const known = partsOf(example);
      const shared = [...parts].filter((part) => known.has(part)).length / parts.size;
      if (shared > most) [best, most] = [scheme, shared];
    }
  }
  return best;
}

const folderParts: readonly (readonly [string, AdapterComponent | null])[] = [
  ['', null],
  ['unet', 'unet'],
  ['transformer', null],
  ['text_encoder', 'text_encoder'],
  ['text_encoder_2', 'text_encoder_2'],
];

async function readFolder(folder: string, options: ReadAdapterOptions): Promise<Adapter> {
  const parts: ((unlisted?: boolean) => Adapter)[] = [];
  const configs: string[] = [];
  for (const [part, component] of folderParts) {
    const place = path.join(folder, part);
    const config = path.join(place, adapterConfigName);
    if (!exists(config)) continue;
    const weights = ['adapter_model.safetensors', 'adapter_model.bin']
      .map((name) => path.join(place, name))
      .find((file) => exists(file));
    if (weights === undefined) {
      throw new FormatError(place, `${adapterConfigName} without adapter_model.safetensors`);
    }
    const told = { ...options, component, config: readAdapterConfig(weights, config) };
    const file = await openTensorFile(weights);
    const read = (unlisted?: boolean): Adapter => readAdapter(file, { ...told, unlisted });
    parts.push(read);
    configs.push(config);
  }
  const found = parts.map((read) => read());
  // Text encoders are many families': beside a network that is not listed they go by their own names too.
  const isListed = ({ architecture }: Adapter): boolean => layoutOf(architecture) !== null;
  if (found.some((adapter) => !isListed(adapter))) {
    found.forEach((adapter, i) => {
      if (isListed(adapter)) found[i] = parts[i]!(true);
    });
  }
  if (found.length === 0) {
    const single = singleFiles.map((name) => path.join(folder, name)).find((file) => exists(file));
    if (single !== undefined) return readAdapter(await openTensorFile(single), options);
    const named = adaptersWithin(folder);
    if (named.length === 1) return readFolder(named[0]!, options);
    if (named.length > 1) {
      const names = named.map((place) => excerpt(path.basename(place))).join(', ');
      throw new FormatError(folder, `expected one adapter, got ${names}; name the folder of one`);
    }
    throw new FormatError(
      folder,
      `expected an adapter file, or a folder with ${adapterConfigName} or pytorch_lora_weights.safetensors`,
    );
  }
  return joined(folder, found, configs);
}

const singleFiles = ['pytorch_lora_weights.safetensors', 'pytorch_lora_weights.bin'];

/** Whether a folder is an adapter: PEFT's, one of them one level down, or diffusers' with a file of LoRA weights. */
export function isAdapterFolder(folder: string): boolean {
  return (
    folderParts.some(([part]) => exists(path.join(folder, part, adapterConfigName))) ||
    singleFiles.some((name) => exists(path.join(folder, name))) ||
    adaptersWithin(folder).length > 0
  );
}

/** Folders of adapters that have names of their own: PEFT saves those one level down. */
function adaptersWithin(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && exists(path.join(folder, entry.name, adapterConfigName)))
    .map(({ name }) => path.join(folder, name))
    .sort();
}

/** Adapters of several networks as one. @throws {FormatError} if two change the same layer */
function joined(folder: string, adapters: readonly Adapter[], configs: readonly string[]): Adapter {
  const layers = new Map<string, AdapterLayer>();
  for (const adapter of adapters) {
    for (const [id, layer] of adapter.layers) {
      if (layers.has(id)) throw new FormatError(folder, `${id} is in two of its adapters`, { tensor: id });
      layers.set(id, layer);
    }
  }
  return {
    path: folder,
    files: [...adapters.flatMap(({ files }) => files), ...configs],
    scheme: 'peft',
    architecture: commonFamily(adapters, layers),
    layers,
    words: [],
    metadata: new Map(adapters.flatMap(({ metadata }) => [...metadata])),
    unusable: adapters.flatMap(({ unusable }) => unusable),
    stray: adapters.flatMap(({ stray }) => stray),
  };
}

/** The family that one of the parts is certainly of, or else the first that has all their networks. */
function commonFamily(
  adapters: readonly Adapter[],
  layers: ReadonlyMap<string, AdapterModule>,
): Architecture {
  const told = adapters.find(({ architecture }) => architecture !== DEFAULT_FAMILY.name);
  if (told !== undefined) return told.architecture;
  const components = new Set([...layers.values()].map(({ component }) => component));
  const fitting = ADAPTER_FAMILIES.find(({ name }) =>
    [...components].every((component) => componentsOf(name).includes(component)),
  );
  return (fitting ?? DEFAULT_FAMILY).name;
}
