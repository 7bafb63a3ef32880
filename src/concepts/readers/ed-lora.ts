/**
 * ED-LoRA files: Mix-of-Show's `.pth`, `{'params': {'new_concept_embedding', 'text_encoder', 'unet'}}`, with or
 * without the `params` level, and the same flattened into safetensors. Factors apply as up · down: no alpha is stored
 * and nothing is divided by the rank.
 * Source: TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/trainer_edlora.py (delta_state_dict).
 */
import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { elementCount, type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { edLoraWord, parseEdLoraKey } from '../../models/keys/ed-lora.ts';
import type { Concept, ConceptToken } from '../concept.ts';
import { collectLayers } from './lora-layers.ts';
import { embeddingRows } from './textual-inversion.ts';

const params = /^params\./;

/**
 * Header entry of our safetensors form: the words as a JSON list. Those files order tensors by name, and the order of
 * a concept's words is part of what it means.
 */
export const tokenOrderKey = 'edlora.tokens';

/** Whether a tensor name is of this layout. */
export function isEdLoraName(name: string): boolean {
  const flat = name.replace(params, '');
  return edLoraWord(flat) !== null || parseEdLoraKey(flat) !== null;
}

/** @throws {FormatError} as `collectLayers`, and on embeddings that are no [L, D] of one size */
export function readEdLora(file: TensorFile): Omit<Concept, 'path' | 'metadata'> {
  const factors: RawTensor[] = [];
  for (const tensor of file.tensors.values()) {
    const name = tensor.name.replace(params, '');
    if (edLoraWord(name) === null) factors.push(renamed(tensor, name));
  }
  const layers = collectLayers(file.path, factors, { parse: parseEdLoraKey, scale: () => 1 });
  return { format: 'ed-lora', tokens: orderedWords(file), layers };
}

/** The words of a file and their embeddings, in the order that the file means. @throws {FormatError} as `readEdLora` */
export function orderedWords(file: TensorFile): readonly ConceptToken[] {
  const tokens: ConceptToken[] = [];
  for (const tensor of file.tensors.values()) {
    const word = edLoraWord(tensor.name.replace(params, ''));
    if (word !== null) tokens.push({ word, embedding: checkEmbedding(file.path, word, tensor, tokens[0]) });
  }
  return inStoredOrder(file, tokens);
}

/** Tokens as the header lists them; as they stand in the file where it does not. */
function inStoredOrder(file: TensorFile, tokens: readonly ConceptToken[]): readonly ConceptToken[] {
  const stored = file.metadata.get(tokenOrderKey);
  if (stored === undefined) return tokens;
  let words: unknown;
  try {
    words = JSON.parse(stored);
  } catch (cause) {
    throw new FormatError(file.path, `${tokenOrderKey}: not valid JSON`, { cause });
  }
  const byWord = new Map<unknown, ConceptToken>(tokens.map((token) => [token.word, token]));
  const ordered = Array.isArray(words) ? words.flatMap((word: unknown) => byWord.get(word) ?? []) : [];
  if (!Array.isArray(words) || words.length !== tokens.length || new Set(ordered).size !== tokens.length) {
    throw new FormatError(
      file.path,
      `${tokenOrderKey}: expected each of the file's words once, got ${excerpt(stored)}`,
    );
  }
  return ordered;
}

/** An embedding as [L, D], equal in size to the first one's. A single row may be stored as [D]. */
function checkEmbedding(
  file: string,
  word: string,
  tensor: RawTensor,
  first: ConceptToken | undefined,
): RawTensor {
  const fail = (expected: string): FormatError =>
    new FormatError(
      file,
      `embedding of ${word}: expected ${expected}, got ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      { tensor: tensor.name },
    );
  if (!isFloatDType(tensor.dtype)) throw fail('floating point numbers');
  if (tensor.shape.length > 2 || elementCount(tensor.shape) === 0 || tensor.shape.length === 0) {
    throw fail('[layers, width], one row per cross-attention layer,');
  }
  const embedding = embeddingRows(file, word, tensor);
  if (first !== undefined) {
    const [layers, width] = first.embedding.shape;
    if (embedding.shape[0] !== layers || embedding.shape[1] !== width) {
      throw fail(`[${layers}, ${width}] as that of ${first.word}`);
    }
  }
  return embedding;
}
