/**
 * Embeddings in every form that tools write: diffusers (`<word>`), A1111 (`string_to_param.*` with a name inside), kohya
 * (`emb_params`), SDXL (`clip_l`, `clip_g`), XTI (16 keys), a tensor and nothing else, and bundled into LoRA files
 * (`bundle_emb.<name>.…`). [n, D] is n vectors in a row, whatever n is, as every other tool has it: only XTI's keys and
 * our own header (`LAYER_WISE_KEY`) say that there is one per cross-attention layer.
 */

import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../../formats/raw-tensor.ts';
import { parseJson } from '../../formats/strict-json.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import * as path from '../../io/platform/paths.ts';
import type { AdapterWord } from '../adapter.ts';
import type { SchemeReader } from './scheme.ts';

/** Keys of XTI files, in the order of the cross-attentions. Source: prompt-plus-pytorch, train_textual_inversion_XTI.py. */
export const XTI_KEYS: readonly string[] = [
  ...['IN01', 'IN02', 'IN04', 'IN05', 'IN07', 'IN08', 'MID'],
  ...['OUT03', 'OUT04', 'OUT05', 'OUT06', 'OUT07', 'OUT08', 'OUT09', 'OUT10', 'OUT11'],
];

/** What files of words with vectors of several text encoders call each encoder. */
export const ENCODER_KEYS = { text_encoder: 'clip_l', text_encoder_2: 'clip_g' } as const;

/** Header entry of our own files: the words that have one vector per cross-attention layer, as a JSON list. */
export const LAYER_WISE_KEY = 'edlora.layer_wise';

/** The header entry for a file of words; none where no word needs it. */
export function layerWiseHeader(
  words: readonly Pick<AdapterWord, 'word' | 'rows'>[],
): Record<string, string> {
  const own = words.filter(({ rows }) => rows === 'layers').map(({ word }) => word);
  return own.length === 0 ? {} : { [LAYER_WISE_KEY]: JSON.stringify(own) };
}

/** @throws {FormatError} if the header's list is none */
function statedLayerWise({ path: file, metadata }: TensorFile): ReadonlySet<string> {
  const stated = metadata.get(LAYER_WISE_KEY);
  if (stated === undefined) return new Set();
  const words = parseJson(stated, `${file}: ${LAYER_WISE_KEY}`);
  if (!Array.isArray(words)) {
    throw new FormatError(file, `${LAYER_WISE_KEY}: expected a list of words, got ${excerpt(stated)}`);
  }
  return new Set(words.filter((word) => typeof word === 'string'));
}

const bundle = /^bundle_emb\.(.+)\.(string_to_param\.\*|emb_params|clip_l|clip_g)$/;

/**
 * Names that are no words: places in a list, paths of any kind, and the parts of adapters and layers. A tensor of such a
 * name is a weight that no reader knows.
 */
const noWord =
  /^\d+$|[/\\:]|(^|\.)(weight|bias|alpha|diff|diff_b|dora_scale|up|down|u|v)$|_weight$|(^|[._])(lora_(A|B|up|down|mid)|lora_magnitude_vector|(hada|lokr)_[wt]\d(_[ab])?|oft_(blocks|diag))$|(^|[._])(attn\d|to_[qkv]|(transformer|down|up|mid|input|middle|output)_blocks?)([._]|$)/;

/** Whether a tensor is an embedding inside a LoRA file. */
export function isBundledEmbedding(name: string): boolean {
  return bundle.test(name);
}

/** @throws {FormatError} if one is no [n, D] of numbers */
export function bundledWords(file: string, tensors: Iterable<RawTensor>): AdapterWord[] {
  return [...tensors].flatMap((tensor) => {
    const match = bundle.exec(tensor.name);
    if (match === null) return [];
    return [tokens(file, match[1]!, tensor, encoderOf(match[2]!) ?? 'text_encoder')];
  });
}

/**
 * A file of embeddings and nothing else; `null` if it is something else.
 * @throws {FormatError} if an embedding is no [n, D] of numbers
 */
export function readTextualInversion(file: TensorFile): AdapterWord[] | null {
  const names = [...file.tensors.keys()];
  const stem = wordOfFile(file.path);
  const first = (name: string): RawTensor => file.tensors.get(name)!;
  const a1111 = names.filter((name) => name.startsWith('string_to_param.'));
  if (a1111.length > 0) {
    if (!names.every((name) => beside.test(name))) return null;
    const inside = nameInside(file);
    return a1111.map((name, i) => {
      const own = name.slice('string_to_param.'.length);
      const word = own !== '*' ? own : i === 0 && inside !== null ? inside : stem;
      return tokens(file.path, word, first(name), 'text_encoder');
    });
  }
  // A bare tensor of a PyTorch file has the empty name.
  if (names.length === 1 && (names[0] === 'emb_params' || names[0] === '')) {
    return [tokens(file.path, nameInside(file) ?? stem, first(names[0]), 'text_encoder')];
  }
  if (names.length > 0 && names.every((name) => encoderOf(name) !== null)) {
    const word = nameInside(file) ?? stem;
    return withStatedRows(
      file,
      names.map((name) => tokens(file.path, word, first(name), encoderOf(name)!)),
    );
  }
  if (names.length > 0 && names.every(isBundledEmbedding)) {
    return withStatedRows(file, bundledWords(file.path, file.tensors.values()));
  }
  if (names.length === XTI_KEYS.length && XTI_KEYS.every((key) => file.tensors.has(key))) {
    return layerWise(file, stem);
  }
  // Nothing but names and shapes tells a word: every one must look like a word, and have the text encoder's one width.
  const isWord = (name: string): boolean => {
    const { shape, dtype } = first(name);
    return isFloatDType(dtype) && (shape.length === 1 || shape.length === 2) && !noWord.test(name);
  };
  const widths = new Set(names.map((name) => first(name).shape.at(-1)));
  if (widths.size !== 1 || !names.every(isWord)) return null;
  return withStatedRows(
    file,
    names.map((name) => tokens(file.path, name, first(name), 'text_encoder')),
  );
}

/** Words of which the header says that they have one vector per cross-attention layer. */
function withStatedRows(file: TensorFile, words: readonly AdapterWord[]): AdapterWord[] {
  const stated = statedLayerWise(file);
  return words.map((own) => ({ ...own, rows: stated.has(own.word) ? 'layers' : 'tokens' }));
}

function encoderOf(key: string): AdapterWord['encoder'] | null {
  if (key === ENCODER_KEYS.text_encoder) return 'text_encoder';
  return key === ENCODER_KEYS.text_encoder_2 ? 'text_encoder_2' : null;
}

/** What A1111 and ComfyUI call an embedding: its file's name. White space would end the word in a prompt. */
export function wordOfFile(file: string): string {
  return path.parse(file).name.trim().replace(/\s+/g, '_');
}

/** What lies beside `string_to_param` in files of the original code and of trainers: ids, and an optimiser's state. */
const beside = /^(string_to_param|string_to_token|optimizer\w*)(\.|$)/;

function tokens(file: string, word: string, tensor: RawTensor, encoder: AdapterWord['encoder']): AdapterWord {
  return { word, embedding: embeddingRows(file, word, tensor), rows: 'tokens', encoder };
}

/** The name that A1111 stores in the file; in safetensors the header's `name`. */
function nameInside({ root, metadata }: TensorFile): string | null {
  const name = root instanceof Map ? root.get('name') : metadata.get('name');
  return typeof name === 'string' && name !== '' && !/\s/.test(name) ? name : null;
}

/** Sixteen tensors [n, D] or [D] to n words of [16, D]. */
function layerWise(file: TensorFile, stem: string): AdapterWord[] {
  const layers = XTI_KEYS.map((key) => embeddingRows(file.path, key, file.tensors.get(key)!));
  const [count, width] = layers[0]!.shape as [number, number];
  const bad = layers.findIndex(({ shape }) => shape.join() !== [count, width].join());
  if (bad >= 0) {
    throw new FormatError(file.path, `${XTI_KEYS[bad]}: expected [${count}, ${width}] as ${XTI_KEYS[0]}`);
  }
  const values = layers.map(readFloat32);
  return Array.from({ length: count }, (_, i) => {
    const word = count === 1 ? `<${stem}>` : `<${stem}${i + 1}>`;
    const data = new Float32Array(XTI_KEYS.length * width);
    values.forEach((layer, l) => {
      data.set(layer.subarray(i * width, (i + 1) * width), l * width);
    });
    const embedding = float32Tensor(word, [XTI_KEYS.length, width], data);
    return { word, embedding, rows: 'layers' as const, encoder: 'text_encoder' as const };
  });
}

/** Characters of a word at most; a prompt of that length would not fit a text encoder. */
const MAX_WORD_LENGTH = 256;

/** Vectors of a word at most; a text encoder of Stable Diffusion reads 75 at once. */
const MAX_VECTORS = 1024;

/**
 * A word's embedding as [n, D]; a single vector may be stored as [D].
 * @throws {FormatError} if it is no [n, D] of numbers, or the word is none that a prompt could hold
 */
export function embeddingRows(file: string, word: string, tensor: RawTensor): RawTensor {
  if (word.length === 0 || word.length > MAX_WORD_LENGTH) {
    throw new FormatError(
      file,
      `expected words of 1 to ${MAX_WORD_LENGTH} characters, got one of ${word.length}: ${excerpt(word)}`,
    );
  }
  const { shape, strides } = tensor;
  if (isFloatDType(tensor.dtype) && shape.length === 1 && shape[0]! > 0) {
    return { ...tensor, shape: [1, shape[0]!], strides: [shape[0]!, strides[0]!] };
  }
  if (!isFloatDType(tensor.dtype) || shape.length !== 2 || shape.includes(0)) {
    throw new FormatError(
      file,
      `embedding of ${word}: expected numbers of [vectors, width], got ${tensor.dtype} [${shape.join(', ')}]`,
      { tensor: tensor.name },
    );
  }
  if (shape[0]! > MAX_VECTORS) {
    throw new FormatError(
      file,
      `embedding of ${word}: expected at most ${MAX_VECTORS} vectors, got ${shape[0]}`,
      { tensor: tensor.name },
    );
  }
  return tensor;
}

export const embeddingReader: SchemeReader = {
  name: 'embedding',
  examples: [],
  recognises: (file) => (readTextualInversion(file) === null ? 0 : file.tensors.size),
  read: (file) => ({ layers: new Map(), words: readTextualInversion(file)!, unusable: [], unknown: [] }),
};
