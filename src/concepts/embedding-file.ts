/** Files that hold nothing but embeddings (textual inversion, XTI, those of a fusion) as words of a base. */

import { refuseNonFinite } from '../adapters/finite.ts';
import { readTextualInversion, wordOfFile } from '../adapters/schemes/textual-inversion.ts';
import { FormatError, MismatchError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { sliceRows } from '../formats/raw-tensor.ts';
import type { Parts } from '../models/families/parts.ts';
import { familyOfWordWidth } from '../models/families/recognise.ts';
import { Pace } from '../pace.ts';
import type { Concept, ConceptToken } from './concept.ts';
import { tokensOf } from './concept-words.ts';
import { checkHalves } from './encoder-halves.ts';

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

/** The base that words are to be of, as far as they are held to it. */
export type WordBase = { readonly parts: Pick<Parts, 'textEncoders' | 'layers'> };

/**
 * Open an embedding file. A word with one vector per cross-attention layer keeps them, one vector serves all layers,
 * and a word of several vectors becomes as many tokens: `<word>`, `<word>_1`, … The file's name calls its only word too.
 * @throws {FormatError} if the file is damaged or of an unknown layout, or a number in it is not finite
 * @throws {MismatchError} if its embeddings are for another architecture, or for some of the base's text encoders alone
 */
export async function loadEmbeddings(
  file: string,
  { parts }: WordBase,
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
  const layerWise = new Set(words.filter(({ rows }) => rows === 'layers').map(({ word }) => word));
  const tokens: ConceptToken[] = [];
  const expansions = new Map<string, readonly string[]>();
  const read = tokensOf(words);
  for (const token of read) {
    const { word, embeddings } = token;
    const count = vectorsOf(path, parts, token);
    const { contextCount } = parts.layers;
    const perLayer = layerWise.has(word) || (ofFusion && count === contextCount);
    if (perLayer && count !== 1 && count !== contextCount) {
      throw new MismatchError(
        `${path}: embedding of ${word}: expected one vector for each of ${contextCount} cross-attention layers, got ${count}`,
      );
    }
    if (count === 1 || perLayer) {
      tokens.push(token);
      continue;
    }
    const names = Array.from({ length: count }, (_, i) => (i === 0 ? word : `${word}_${i}`));
    names.forEach((name, i) => {
      const own = [...embeddings].map(([encoder, all]) => [encoder, sliceRows(all, i, 1)] as const);
      tokens.push({ word: name, embeddings: new Map(own) });
    });
    expansions.set(word, names);
  }
  const alias = wordOfFile(path);
  if (!ofFusion && read.length === 1 && alias.toLowerCase() !== read[0]!.word.toLowerCase()) {
    expansions.set(alias, expansions.get(read[0]!.word) ?? [read[0]!.word]);
  }
  return { concept: { path, format: 'ed-lora', tokens, layers: new Map(), metadata }, expansions };
}

/** How many vectors a word has, the same of every text encoder. @throws {MismatchError} as `loadEmbeddings` */
function vectorsOf(
  file: string,
  { textEncoders }: WordBase['parts'],
  { word, embeddings }: ConceptToken,
): number {
  const misfit = (text: string): MismatchError => new MismatchError(`${file}: embedding of ${word}: ${text}`);
  checkHalves({ textEncoders }, embeddings.keys(), misfit);
  const [first] = embeddings.values();
  for (const [encoder, { shape }] of embeddings) {
    const [count, columns] = shape as [number, number];
    const width = textEncoders.get(encoder)!.config.hiddenSize;
    if (columns !== width) {
      const made = familyOfWordWidth(columns)?.shortTitle ?? 'another base';
      throw misfit(`expected width ${width}, got ${columns}; trained on ${made}?`);
    }
    if (count !== first!.shape[0]) {
      throw misfit(`expected as many vectors of each text encoder, got ${first!.shape[0]} and ${count}`);
    }
  }
  return first!.shape[0]!;
}
