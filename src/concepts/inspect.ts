/**
 * What a weight file or model folder holds, as plain data: for people who want to know before they use it. Builds and
 * runs nothing.
 */

import type { Adapter, AdapterWord } from '../adapters/adapter.ts';
import { familyOfAdapter } from '../adapters/family-of-file.ts';
import { refuseNonFinite } from '../adapters/finite.ts';
import { isAdapterFolder, loadAdapter, readAdapter } from '../adapters/read.ts';
import { partTensors } from '../adapters/schemes/factor-tensors.ts';
import { readTextualInversion } from '../adapters/schemes/textual-inversion.ts';
import { FormatError, MismatchError } from '../errors.ts';
import type { DType } from '../formats/dtype.ts';
import { hashFiles } from '../formats/file-hash.ts';
import { openShardedOrSingle, openTensorFile } from '../formats/open-tensor-file.ts';
import { OWN_FILES, type OwnFormat, ownFormat } from '../formats/own-files.ts';
import { elementCount, type RawTensor, verifyStorages } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { exists, infoOf } from '../io/file-info.ts';
import { readdirSync, statSync } from '../io/platform/disk.ts';
import * as path from '../io/platform/paths.ts';
import { componentsOf } from '../models/families/adapter-layers.ts';
import { DEFAULT_FAMILY, familyNamed, hasBase } from '../models/families/families.ts';
import { familyOf } from '../models/families/recognise.ts';
import { Pace } from '../pace.ts';
import type { SubjectProgress } from '../progress.ts';
import type { Concept } from './concept.ts';
import { conceptOf } from './concept-file.ts';
import { tokensOf } from './concept-words.ts';
import { checkFinite } from './finite.ts';

export type InspectionKind =
  /** Words with their embeddings and LoRA layers, in Mix-of-Show's names. */
  | 'concept'
  /** LoRA layers in another naming. */
  | 'lora'
  /** Embeddings of words and nothing else. */
  | 'embeddings'
  /** A whole model in one file, in the original names. */
  | 'checkpoint'
  /** A whole model in diffusers' folders. */
  | 'model-folder'
  /** One network of a diffusers model. */
  | 'component'
  /** From an embedding to a text encoder's states. */
  | 'deprojector'
  /** States of a text encoder, in place of a prompt's. */
  | 'text-states'
  /** Anything else. */
  | 'tensors';

export interface Inspection {
  /** Absolute. */
  readonly path: string;
  readonly kind: InspectionKind;
  /** In words: `ED-LoRA concept`, `LoRA (kohya names)`, `SD 1.x checkpoint (single file)` … */
  readonly description: string;
  /** `safetensors`, `torch-zip`, `torch-legacy`, `sharded`, or `folder`. */
  readonly format: string;
  /** Of all files together. */
  readonly sizeBytes: number;
  /** sha256 is null unless asked for. */
  readonly files: readonly {
    readonly path: string;
    readonly sizeBytes: number;
    readonly sha256: string | null;
  }[];
  readonly tensorCount: number;
  readonly parameterCount: number;
  /** Number of tensors per dtype. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** Words with the shape of their embeddings. */
  readonly tokens: readonly { readonly word: string; readonly shape: readonly number[] }[];
  /** Adapted layers per network and rank; null if there are none. */
  readonly layers: Readonly<Record<string, Readonly<Record<string, number>>>> | null;
  /** What multiplies up · down, with the number of layers; null if there are none. */
  readonly scales: Readonly<Record<string, number>> | null;
  /** Networks of a model with their number of weights. */
  readonly parts: Readonly<Record<string, number>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: readonly {
    readonly name: string;
    readonly dtype: DType;
    readonly shape: readonly number[];
  }[];
  /** Why it cannot be used as what it seems to be, for example. */
  readonly notes: readonly string[];
}

/** What a reader tells of the content. */
type Content = Pick<Inspection, 'kind' | 'description' | 'tokens' | 'layers' | 'scales' | 'parts' | 'notes'>;

/** Content, and what it was told from. */
interface Reading {
  readonly content: Content;
  readonly format: string;
  readonly tensors: readonly RawTensor[];
  readonly metadata: ReadonlyMap<string, string>;
  /** Files beside those that the tensors lie in, e.g. an index. */
  readonly files: readonly string[];
}

export interface InspectOptions {
  /** Read every byte as well: sha256 of each file, and the checksums that torch files keep. Default false. */
  readonly hash?: boolean;
  /** Stops between two tensors by throwing its reason. */
  readonly signal?: AbortSignal;
  /** Told when the file was opened and its layout known, then of each part of `hash`. */
  readonly onProgress?: (progress: SubjectProgress) => void;
}

/** Stems of a network's weights inside a diffusers folder. */
const STEMS = ['diffusion_pytorch_model', 'model', 'pytorch_model'] as const;

/**
 * Look into a weight file, a sharded one's index, a LoRA folder (PEFT, diffusers), or a model folder.
 * @throws {FormatError} if it is missing, unsafe, damaged, or nothing that can be read
 */
export async function inspect(
  location: string,
  { hash = false, signal, onProgress }: InspectOptions = {},
): Promise<Inspection> {
  const pace = new Pace(signal);
  await pace.turn();
  const info = infoOf(location);
  const reading = info?.isDirectory() ? await readFolder(location, pace) : await readFile(location, pace);
  const advance = (done: number): void => onProgress?.({ done, total: hash ? 3 : 1, subject: location });
  advance(1);
  const { content, format, tensors, metadata } = reading;
  if (hash) {
    await pace.run(verifyStorages(tensors));
    advance(2);
  }
  const holders = tensors.flatMap(({ storage }) => storage.range?.file ?? []);
  const files = [...new Set([...reading.files, ...holders])];
  const hashes = hash ? await hashFiles(files, signal) : new Map<string, string>();
  if (hash) advance(3);
  const sizes = files.map((file) => statSync(file).size);
  return {
    path: path.resolve(location),
    ...content,
    format,
    sizeBytes: sizes.reduce((sum, size) => sum + size, 0),
    files: files.map((file, i) => ({
      path: file,
      sizeBytes: sizes[i]!,
      sha256: hashes.get(file) ?? null,
    })),
    tensorCount: tensors.length,
    parameterCount: countNumbers(tensors),
    dtypes: tally(tensors.map(({ dtype }) => dtype)),
    metadata: Object.fromEntries(metadata),
    tensors: tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
  };
}

async function readFile(file: string, pace: Pace): Promise<Reading> {
  return readingOf(await openTensorFile(file), pace);
}

async function readingOf(file: TensorFile, pace: Pace): Promise<Reading> {
  const { format, tensors, metadata } = file;
  return {
    content: await contentOf(file, pace),
    format,
    tensors: [...tensors.values()],
    metadata,
    files: [file.path],
  };
}

async function readFolder(folder: string, pace: Pace): Promise<Reading> {
  const holds = (...parts: string[]): boolean => exists(path.join(folder, ...parts));
  if (isAdapterFolder(folder)) {
    const adapter = await loadAdapter(folder);
    const { metadata, architecture } = adapter;
    const { shortTitle } = familyNamed(architecture);
    const content = await layersContent(() => adapter, shortTitle, pace);
    return { content, format: 'folder', tensors: [...tensorsOf(adapter)], metadata, files: [] };
  }
  if (holds('model_index.json') || holds('unet')) return readModelFolder(folder);
  return { ...(await readingOf(await openShardedOrSingle(folder, ...STEMS), pace)), format: 'folder' };
}

async function readModelFolder(folder: string): Promise<Reading> {
  const names = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && hasWeights(path.join(folder, entry.name)))
    .map(({ name }) => name);
  if (names.length === 0)
    throw new FormatError(folder, 'expected networks with weights, got none; incomplete download?');
  const opened: [string, TensorFile][] = [];
  for (const name of names) opened.push([name, await openShardedOrSingle(path.join(folder, name), ...STEMS)]);
  const tensors = opened.flatMap(([name, file]) =>
    [...file.tensors.values()].map((tensor) => ({ ...tensor, name: `${name}/${tensor.name}` })),
  );
  const unet = opened.find(([name]) => name === 'unet')?.[1];
  const family = unet === undefined ? null : familyOf(unet.tensors.values()).shortTitle;
  return {
    content: {
      ...nothing,
      kind: 'model-folder',
      description: `${family === null ? '' : `${family} `}model (diffusers folder)`,
      parts: Object.fromEntries(
        opened.map(([name, file]) => [name, countNumbers([...file.tensors.values()])]),
      ),
    },
    format: 'folder',
    tensors,
    metadata: new Map(),
    files: opened.map(([, file]) => file.path),
  };
}

function hasWeights(folder: string): boolean {
  return readdirSync(folder).some(
    (name) =>
      STEMS.some((stem) => name.startsWith(`${stem}.`)) && /\.(safetensors|bin)(\.index\.json)?$/.test(name),
  );
}

const nothing: Omit<Content, 'kind' | 'description'> = {
  tokens: [],
  layers: null,
  scales: null,
  parts: {},
  notes: [],
};

/** The family that a LoRA is for, as its header says where its names do not; by its names where the two disagree. */
function adapterTitle(file: TensorFile): string {
  try {
    return familyOfAdapter(file).shortTitle;
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return familyOf(file.tensors.values()).shortTitle;
  }
}

async function contentOf(file: TensorFile, pace: Pace): Promise<Content> {
  const tensors = [...file.tensors.values()];
  const some = (test: (name: string) => boolean): boolean => tensors.some(({ name }) => test(name));
  const own = ownFormat(file.metadata);
  if (own !== null) return { ...nothing, kind: OWN_KINDS[own], description: OWN_FILES[own] };
  const family = familyOf(tensors).shortTitle;
  if (some((name) => /^(state_dict\.)?model\.diffusion_model\./.test(name))) {
    const description = `${family} checkpoint (single file)`;
    return { ...nothing, kind: 'checkpoint', description, parts: checkpointParts(tensors) };
  }
  const component = COMPONENTS.find(([, ...marks]) => marks.every((mark) => some((name) => mark.test(name))));
  if (component !== undefined) return { ...nothing, kind: 'component', description: component[0] };
  const embeddings = await embeddingContent(file, pace);
  if (embeddings !== null) return embeddings;
  return layersContent(() => readAdapter(file), adapterTitle(file), pace);
}

/** A concept or another family's LoRA, or why it is neither. @param family what it is for */
async function layersContent(load: () => Adapter, family: string, pace: Pace): Promise<Content> {
  try {
    return await adapterOrConcept(load(), pace);
  } catch (error) {
    if (!(error instanceof FormatError || error instanceof MismatchError)) throw error;
    return { ...nothing, kind: 'tensors', description: `weights for ${family}`, notes: [error.message] };
  }
}

const OWN_KINDS: Readonly<Record<OwnFormat, InspectionKind>> = {
  'edlora-deprojector': 'deprojector',
  'edlora-text-states': 'text-states',
};

/** Networks on their own, by names that all of theirs have. */
const COMPONENTS: readonly (readonly [string, ...RegExp[]])[] = [
  ['ControlNet', /^controlnet_down_blocks\./, /^conv_in\./],
  ['UNet (diffusers names)', /^down_blocks\.0\.(resnets|attentions)\./, /^conv_out\./],
  ['autoencoder (diffusers names)', /^encoder\.down_blocks\./, /^decoder\.up_blocks\./],
  ['CLIP, text and vision', /^text_model\.encoder\./, /^vision_model\.encoder\./],
  ['CLIP text encoder', /^(text_model\.)?encoder\.layers\.0\.self_attn\.q_proj\.weight$/],
  ['T2I-Adapter', /^adapter\.(conv_in|body)\./],
];

const LDM_PARTS = [
  ['UNet', 'model.diffusion_model.'],
  ['text encoder', 'cond_stage_model.'],
  ['text encoders', 'conditioner.'],
  ['autoencoder', 'first_stage_model.'],
] as const;

/** Numbers per network of a single-file checkpoint; what belongs to none is `other`. */
function checkpointParts(tensors: readonly RawTensor[]): Record<string, number> {
  const parts: Record<string, number> = {};
  for (const tensor of tensors) {
    const name = tensor.name.replace(/^state_dict\./, '');
    const part = LDM_PARTS.find(([, prefix]) => name.startsWith(prefix))?.[0] ?? 'other';
    parts[part] = (parts[part] ?? 0) + elementCount(tensor.shape);
  }
  return parts;
}

async function conceptContent(concept: Concept, pace: Pace): Promise<Content> {
  const layers = [...concept.layers.values()];
  const ranks = (wanted: string): Record<string, number> =>
    tally(layers.filter(({ component }) => component === wanted).map(({ rank }) => rank));
  const components = componentsOf(concept.family ?? DEFAULT_FAMILY.name);
  const isConcept = concept.format === 'ed-lora';
  return {
    ...nothing,
    kind: isConcept ? 'concept' : 'lora',
    description: isConcept ? 'ED-LoRA concept' : `LoRA (${concept.format} names)`,
    tokens: wordsOf(concept),
    layers: Object.fromEntries(components.map((component) => [component, ranks(component)])),
    scales: tally(layers.map(({ scale }) => Number(scale.toPrecision(6)))),
    notes: await refusalOf(() => checkFinite(concept, pace)),
  };
}

/** A concept, where its family is drawn. */
function adapterOrConcept(adapter: Adapter, pace: Pace): Promise<Content> {
  return hasBase(familyNamed(adapter.architecture))
    ? conceptContent(conceptOf(adapter), pace)
    : adapterContent(adapter, pace);
}

/** A LoRA of a family that is not drawn. */
async function adapterContent(adapter: Adapter, pace: Pace): Promise<Content> {
  const layers = [...adapter.layers.values()];
  const ranks = (wanted: string): Record<string, number> =>
    tally(layers.flatMap(({ component, rank, kind }) => (component === wanted ? [rank ?? kind] : [])));
  const components = new Set(layers.map(({ component }) => component));
  return {
    ...nothing,
    kind: 'lora',
    description: `LoRA for ${familyNamed(adapter.architecture).title} (${adapter.scheme} names)`,
    tokens: adapter.words.map(({ word, embedding }) => ({ word, shape: embedding.shape })),
    layers: Object.fromEntries([...components].map((component) => [component, ranks(component)])),
    scales: tally(layers.map(({ scale }) => Number(scale.toPrecision(6)))),
    notes: await refusalOf(() => refuseNonFinite(tensorsOf(adapter), pace)),
  };
}

function* tensorsOf({ layers, words }: Adapter): Generator<RawTensor> {
  for (const layer of layers.values()) {
    if (layer.kind !== 'weight') for (const [, tensor] of partTensors(layer)) yield tensor;
  }
  for (const { embedding } of words) yield embedding;
}

/** What a check says of a file's numbers, if anything. */
async function refusalOf(check: () => Promise<void>): Promise<string[]> {
  try {
    await check();
    return [];
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return [error.message];
  }
}

function wordsOf({ tokens }: Concept): Content['tokens'] {
  return tokens.flatMap(({ word, embeddings }) =>
    [...embeddings.values()].map(({ shape }) => ({ word, shape })),
  );
}

/** Embeddings of words, if the file holds those and nothing else; else null. */
async function embeddingContent(file: TensorFile, pace: Pace): Promise<Content | null> {
  let words: readonly AdapterWord[] | null = null;
  try {
    words = readTextualInversion(file);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
  }
  if (words === null || words.length === 0) return null;
  const second = words.some(({ encoder }) => encoder === 'text_encoder_2');
  return {
    ...nothing,
    kind: 'embeddings',
    description: `embeddings of words (textual inversion${second ? ', of two text encoders' : ''})`,
    tokens: words.map(({ word, embedding }) => ({ word, shape: embedding.shape })),
    notes: await refusalOf(() =>
      checkFinite({ path: file.path, tokens: tokensOf(words!), layers: new Map() }, pace),
    ),
  };
}

function countNumbers(tensors: readonly RawTensor[]): number {
  return tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
}

/** How often each value occurs. */
function tally(values: readonly (string | number)[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}
