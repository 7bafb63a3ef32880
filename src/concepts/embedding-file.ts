/**
 * Files that hold nothing but embeddings: Textual Inversion as diffusers, A1111 and kohya write it, XTI with one
 * embedding per cross-attention layer, and the embeddings of a fusion.
 */
import path from 'node:path';
import { FormatError, MismatchError } from '../errors.ts';
import { isFloatDType } from '../formats/dtype.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../formats/raw-tensor.ts';
import { openTensorFile, type TensorFile } from '../formats/tensor-file.ts';
import type { Concept, ConceptToken } from './concept.ts';
import { XTI_KEYS } from './readers/textual-inversion.ts';

export interface EmbeddingFile {
  /** The words as a concept without layers. */
  readonly concept: Concept;
  /** Words that stand for several vectors: the word, and all tokens that it is written as in a prompt. */
  readonly expansions: ReadonlyMap<string, readonly string[]>;
}

/**
 * Open an embedding file. A word with L vectors has one per cross-attention layer, one vector serves all layers, any
 * other number is a word of so many tokens.
 * @param layerCount L
 * @param width      D of the base
 * @throws {FormatError} if the file is damaged or of an unknown layout
 * @throws {MismatchError} if its embeddings have another width
 */
export async function loadEmbeddings(
  file: string,
  layerCount: number,
  width: number,
): Promise<EmbeddingFile> {
  const opened = await openTensorFile(file);
  const words = namedEmbeddings(opened);
  const tokens: ConceptToken[] = [];
  const expansions = new Map<string, readonly string[]>();
  for (const [word, tensor] of words) {
    const rows = asRows(opened.path, word, tensor);
    const [count, columns] = rows.shape as [number, number];
    if (columns !== width) {
      const made: Record<number, string> = { 768: 'SD 1.x', 1024: 'SD 2.x', 1280: 'SDXL' };
      throw new MismatchError(
        `${opened.path}: embedding of ${word}: expected width ${width}, got ${columns}; trained on ${made[columns] ?? 'another base'}?`,
      );
    }
    if (count === 1 || count === layerCount) {
      tokens.push({ word, embedding: rows });
      continue;
    }
    const names = Array.from({ length: count }, (_, i) => (i === 0 ? word : `${word}_${i}`));
    const values = readFloat32(rows);
    names.forEach((name, i) => {
      const own = values.slice(i * columns, (i + 1) * columns);
      tokens.push({ word: name, embedding: float32Tensor(name, [1, columns], own) });
    });
    expansions.set(word, names);
  }
  const { path: absolute, metadata } = opened;
  return { concept: { path: absolute, format: 'ed-lora', tokens, layers: new Map(), metadata }, expansions };
}

/** Embeddings by word, whatever the layout. */
function namedEmbeddings(file: TensorFile): Map<string, RawTensor> {
  const names = [...file.tensors.keys()];
  const stem = path.parse(file.path).name;
  if (names.length === 0) throw new FormatError(file.path, 'expected embeddings, got no tensors');
  const a1111 = names.find((name) => name.startsWith('string_to_param.'));
  if (a1111 !== undefined) return new Map([[nameInside(file) ?? stem, file.tensors.get(a1111)!]]);
  const kohya = file.tensors.get('emb_params');
  if (kohya !== undefined && names.length === 1) return new Map([[stem, kohya]]);
  if (names.length === XTI_KEYS.length && XTI_KEYS.every((key) => file.tensors.has(key)))
    return xti(file, stem);
  if (names.some((name) => name === 'clip_l' || name === 'clip_g')) {
    throw new MismatchError(`${file.path}: expected an embedding for Stable Diffusion 1.x, got one for SDXL`);
  }
  const foreign = names.find((name) => /\.(weight|bias|alpha)$/.test(name));
  if (foreign !== undefined) {
    throw new FormatError(file.path, `expected embeddings by word, got "${foreign}"; is it a LoRA?`, {
      tensor: foreign,
    });
  }
  return new Map(file.tensors);
}

/** The name that A1111 stores in the file. */
function nameInside({ root }: TensorFile): string | null {
  const name = root instanceof Map ? root.get('name') : undefined;
  return typeof name === 'string' && name !== '' && !/\s/.test(name) ? name : null;
}

/** Sixteen tensors of [n, D], or [D], to n words of [L, D]. */
function xti(file: TensorFile, stem: string): Map<string, RawTensor> {
  const layers = XTI_KEYS.map((key) => asRows(file.path, key, file.tensors.get(key)!));
  const [count, width] = layers[0]!.shape as [number, number];
  const bad = layers.findIndex(({ shape }) => shape.join() !== [count, width].join());
  if (bad >= 0) {
    throw new FormatError(file.path, `${XTI_KEYS[bad]}: expected [${count}, ${width}] as ${XTI_KEYS[0]}`);
  }
  const values = layers.map(readFloat32);
  return new Map(
    Array.from({ length: count }, (_, i) => {
      const word = count === 1 ? `<${stem}>` : `<${stem}${i + 1}>`;
      const data = new Float32Array(XTI_KEYS.length * width);
      values.forEach((layer, l) => {
        data.set(layer.subarray(i * width, (i + 1) * width), l * width);
      });
      return [word, float32Tensor(word, [XTI_KEYS.length, width], data)];
    }),
  );
}

function asRows(file: string, word: string, tensor: RawTensor): RawTensor {
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
  return tensor;
}
