/** Files that hold nothing but embeddings (textual inversion, XTI, those of a fusion) as words of a base. */

import { refuseNonFinite } from '../adapters/finite.ts';
import { readTextualInversion, wordOfFile } from '../adapters/schemes/textual-inversion.ts';
import { FormatError, MismatchError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../formats/raw-tensor.ts';
import { familyOfWordWidth } from '../models/families/recognise.ts';
import { Pace } from '../pace.ts';
import type { Concept, ConceptToken } from './concept.ts';

export interface EmbeddingFile {
  /** The words as a concept without layers. */
  readonly concept: Concept;
  /**
   * What is written out in prompts: words that stand for several vectors with all their tokens, and the file's name, by
   * which web interfaces call its only word.
   */
  readonly expansions: ReadonlyMap<string, readonly string[]>;
}

export interface LoadEmbeddingsOptions {
  /** Whether a fusion wrote it: its words have one vector per layer, even where its header does not say so. Default false. */
  readonly ofFusion?: boolean;
}

/**
 * Open an embedding file. A word with one vector per cross-attention layer keeps them, one vector serves all layers,
 * and a word of several vectors becomes as many tokens: `<word>`, `<word>_1`, … The file's name calls its only word too.
 * @param layerCount L
 * @param width      D of the base
 * @throws {FormatError} if the file is damaged or of an unknown layout, or a number in it is not finite
 * @throws {MismatchError} if its embeddings are for another architecture
 */
export async function loadEmbeddings(
  file: string,
  layerCount: number,
  width: number,
  { ofFusion = false }: LoadEmbeddingsOptions = {},
): Promise<EmbeddingFile> {
  const opened = await openTensorFile(file);
  const { path, metadata } = opened;
  const words = readTextualInversion(opened);
  if (words === null) {
    const [first] = opened.tensors.keys();
    throw new FormatError(path, `expected embeddings by word, got "${first ?? 'nothing'}"; is it a LoRA?`);
  }
  await refuseNonFinite(
    words.map(({ embedding }) => embedding),
    new Pace(),
  );
  const tokens: ConceptToken[] = [];
  const expansions = new Map<string, readonly string[]>();
  for (const { word, embedding, rows, encoder } of words) {
    if (encoder === 'text_encoder_2') {
      throw new MismatchError(`${path}: expected an embedding for Stable Diffusion 1.x, got one for SDXL`);
    }
    const [count, columns] = embedding.shape as [number, number];
    if (columns !== width) {
      const made = familyOfWordWidth(columns)?.shortTitle ?? 'another base';
      throw new MismatchError(
        `${path}: embedding of ${word}: expected width ${width}, got ${columns}; trained on ${made}?`,
      );
    }
    const perLayer = rows === 'layers' || (ofFusion && count === layerCount);
    if (perLayer && count !== 1 && count !== layerCount) {
      throw new MismatchError(
        `${path}: embedding of ${word}: expected one vector for each of ${layerCount} cross-attention layers, got ${count}`,
      );
    }
    if (count === 1 || perLayer) {
      tokens.push({ word, embedding });
      continue;
    }
    const names = Array.from({ length: count }, (_, i) => (i === 0 ? word : `${word}_${i}`));
    const values = readFloat32(embedding);
    names.forEach((name, i) => {
      const own = values.slice(i * columns, (i + 1) * columns);
      tokens.push({ word: name, embedding: float32Tensor(name, [1, columns], own) });
    });
    expansions.set(word, names);
  }
  const alias = wordOfFile(path);
  if (!ofFusion && words.length === 1 && alias.toLowerCase() !== words[0]!.word.toLowerCase()) {
    expansions.set(alias, expansions.get(words[0]!.word) ?? [words[0]!.word]);
  }
  return { concept: { path, format: 'ed-lora', tokens, layers: new Map(), metadata }, expansions };
}
