/**
 * Concept words in prompts. Every cross-attention layer has its own embedding of a concept word, so one prompt becomes
 * L prompts: in the l-th, each concept word is replaced by its l-th layer token `<newK>`.
 *
 * Numbering is Mix-of-Show's: concepts in order, their words in order, L each.
 * Source: TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/pipeline_edlora.py (bind_concept_prompt).
 */
import { MismatchError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { type RawTensor, readFloat32 } from '../formats/raw-tensor.ts';
import { ClipTokenizer } from '../models/clip/tokenizer.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { usualContextCount } from '../models/families/known-layers.ts';
import type { ComponentId } from '../models/families/layer-table.ts';
import { type PromptIds, paddedIds, plainIds, type Tokenizers } from '../models/families/prompt-ids.ts';
import type { Concept, ConceptToken } from './concept.ts';

/** Longer names fit into no file name, and prompts are searched for them at every character. */
const maxWordLength = 255;

/** One concept word and the tokens that stand for it. */
export interface BoundToken {
  readonly word: string;
  /** L ids, one per cross-attention layer (down, middle, up). */
  readonly ids: readonly number[];
  /** `<newK>`, one per layer. */
  readonly names: readonly string[];
}

/** As Mix-of-Show's `new_concept_cfg.json` has it. */
export type ConceptConfig = Record<string, { concept_token_ids: number[]; concept_token_names: string[] }>;

export interface BoundVocabulary {
  /** Knows the layer tokens; their ids follow the base vocabulary. The first text encoder's. */
  readonly tokenizer: ClipTokenizer;
  /** The same of every text encoder. */
  readonly tokenizers: Tokenizers;
  /** L. */
  readonly layerCount: number;
  readonly tokens: readonly BoundToken[];
  /** The prompt for each of the L layers. Words count in any case. */
  layerPrompts(prompt: string): string[];
  /** Ids of the prompt for each layer, L rows; padded (or cut) to 77, or as long as they are. */
  encode(prompt: string, options: { readonly pad: boolean }): number[][];
  /** The same as every text encoder takes it, L rows. Default: padded. */
  promptIds(prompt: string, options?: { readonly pad: boolean }): PromptIds[];
  /** Rows to append to a text encoder's token embedding table, [count, D], word by word and layer by layer. */
  embeddingRows(encoder: ComponentId): Float32Array;
  conceptConfig(): ConceptConfig;
}

/**
 * Give every concept word its layer tokens.
 * @param tokenizers of the base's text encoders, or the one of a base with one
 * @param layerCount cross-attention layers of the base. Default: as many as the embeddings have rows; those of the default family if no concept
 *   has more than one row. A word with a single row [1, D] uses it in every layer.
 * @param installed words whose layer tokens are in the tokenizer already, as a fused checkpoint has them. Default none.
 * @throws {UsageError} if two files have the same word, or a word is in the vocabulary already
 * @throws {MismatchError} if embeddings differ in width or in layers, or an installed word has other tokens than the
 *   tokenizer
 */
export function bindConcepts(
  tokenizers: ClipTokenizer | Tokenizers,
  concepts: readonly Concept[],
  layerCount = Math.max(
    0,
    ...concepts.flatMap(({ tokens }) => tokens.flatMap(rowsOf).filter((rows) => rows > 1)),
  ) || usualContextCount(),
  installed: ConceptConfig = {},
): BoundVocabulary {
  const own: Tokenizers =
    tokenizers instanceof ClipTokenizer ? new Map([['text_encoder', tokenizers]]) : tokenizers;
  const [first] = own.keys();
  const tokenizer = own.get(first!)!;
  const present = installedTokens(tokenizer, installed, layerCount);
  const owners = new Map<string, Concept>();
  const embeddings: ConceptToken[] = [];
  for (const concept of concepts) {
    for (const token of concept.tokens) {
      checkWord(tokenizer, owners, concept, token.word);
      if (present.some(({ word }) => word.toLowerCase() === token.word.toLowerCase())) {
        throw new UsageError(
          `${concept.path}: the word ${token.word} is already one of the fused checkpoint`,
        );
      }
      checkVectors(concept, token, layerCount, embeddings[0] ?? token);
      owners.set(token.word.toLowerCase(), concept);
      embeddings.push(token);
    }
  }

  let next = firstFreeNumber(tokenizer);
  const names = embeddings.map(() => Array.from({ length: layerCount }, () => `<new${next++}>`));
  const extendedOf = new Map([...own].map(([id, each]) => [id, each.withAddedTokens(names.flat())]));
  const extended = extendedOf.get(first!)!;
  const added = embeddings.map(
    ({ word }, i): BoundToken => ({
      word,
      names: names[i]!,
      ids: names[i]!.map((name) => extended.tokenId(name)!),
    }),
  );
  const tokens = [...present, ...added];
  const replace = wordReplacer(tokens);
  return {
    tokenizer: extended,
    tokenizers: extendedOf,
    layerCount,
    tokens,
    layerPrompts: (prompt) => Array.from({ length: layerCount }, (_, layer) => replace(prompt, layer)),
    encode(prompt, { pad }) {
      return this.layerPrompts(prompt).map((text) =>
        pad ? extended.encodePadded(text).ids : extended.encode(text),
      );
    },
    promptIds(prompt, { pad } = { pad: true }) {
      return this.layerPrompts(prompt).map((text) =>
        pad ? paddedIds(extendedOf, text) : plainIds(extendedOf, text),
      );
    },
    embeddingRows(encoder) {
      const own = embeddings.flatMap((token) => token.embeddings.get(encoder) ?? []);
      return layerRows(own, layerCount);
    },
    conceptConfig: () =>
      Object.fromEntries(
        tokens.map(({ word, ids, names }) => [
          word,
          { concept_token_ids: [...ids], concept_token_names: [...names] },
        ]),
      ),
  };
}

/** Words of a fused checkpoint. @throws {MismatchError} unless the tokenizer has exactly these tokens */
function installedTokens(
  tokenizer: ClipTokenizer,
  installed: ConceptConfig,
  layerCount: number,
): BoundToken[] {
  return Object.entries(installed).map(([word, { concept_token_ids: ids, concept_token_names: names }]) => {
    if (names.length !== layerCount || ids.length !== layerCount) {
      throw new MismatchError(
        `new_concept_cfg.json: ${word}: expected ${layerCount} tokens, one per cross-attention layer, got ${names.length}`,
      );
    }
    const wrong = names.findIndex((name, i) => tokenizer.tokenId(name) !== ids[i]);
    if (wrong >= 0) {
      throw new MismatchError(
        `new_concept_cfg.json: ${word}: expected token ${names[wrong]} to have id ${ids[wrong]}, the tokenizer has ${tokenizer.tokenId(names[wrong]!) ?? 'no such token'}`,
      );
    }
    return { word, ids: [...ids], names: [...names] };
  });
}

function rowsOf({ embeddings }: ConceptToken): number[] {
  return [...embeddings.values()].map(({ shape }) => shape[0]!);
}

/** @throws {MismatchError} unless a word has a vector, or L, for the text encoders of the first word, of its widths */
function checkVectors(
  { path }: Concept,
  { word, embeddings }: ConceptToken,
  layerCount: number,
  first: ConceptToken,
): void {
  const halves = (token: ConceptToken): string => [...token.embeddings.keys()].sort().join(' and ');
  if (halves({ word, embeddings }) !== halves(first)) {
    throw new MismatchError(
      `${path}: embedding of ${word}: expected vectors of ${halves(first)} as ${first.word} has, got those of ${halves({ word, embeddings })}; made for another base?`,
    );
  }
  for (const [encoder, { shape }] of embeddings) {
    const [rows, columns] = shape as [number, number];
    if (rows !== 1 && rows !== layerCount) {
      throw new MismatchError(`${path}: embedding of ${word}: expected ${layerCount} layers, got ${rows}`);
    }
    const width = first.embeddings.get(encoder)!.shape[1]!;
    if (columns !== width) {
      throw new MismatchError(
        `${path}: embedding of ${word}: expected width ${width} as in ${first.word}, got ${columns}; made for another base?`,
      );
    }
  }
}

/** Words of [L, D] or [1, D] as rows of each layer, [words · L, D]. */
function layerRows(words: readonly RawTensor[], layerCount: number): Float32Array {
  const width = words[0]?.shape[1] ?? 0;
  const rows = new Float32Array(words.length * layerCount * width);
  words.forEach((embedding, i) => {
    const values = readFloat32(embedding);
    for (let layer = 0; layer < layerCount; layer++) {
      const from = embedding.shape[0] === 1 ? 0 : layer * width;
      rows.set(values.subarray(from, from + width), (i * layerCount + layer) * width);
    }
  });
  return rows;
}

function checkWord(
  tokenizer: ClipTokenizer,
  owners: ReadonlyMap<string, Concept>,
  concept: Concept,
  word: string,
): void {
  const other = owners.get(word.toLowerCase());
  if (other !== undefined) {
    throw new UsageError(
      `${concept.path}: the word ${word} is also in ${other.path}; rename one with \`renameTokens: ${word}=<${word.replace(/[<>]/g, '')}b>\``,
    );
  }
  if (word.length > maxWordLength) {
    throw new UsageError(
      `${concept.path}: concept word "${excerpt(word)}": expected at most ${maxWordLength} characters, got ${word.length}`,
    );
  }
  if (word === '' || /\p{White_Space}/u.test(word)) {
    throw new UsageError(
      `${concept.path}: concept word ${JSON.stringify(word)}: expected a word without white space`,
    );
  }
  if (tokenizer.isWord(word)) {
    throw new UsageError(
      `${concept.path}: the word ${word} is already in the base's vocabulary; rename it with \`renameTokens: ${word}=<${word.replace(/[<>]/g, '')}1>\``,
    );
  }
}

/** 0, or one more than the largest K of a `<newK>` that an earlier fusion left in the vocabulary. */
function firstFreeNumber(tokenizer: ClipTokenizer): number {
  let free = 0;
  for (const { word } of tokenizer.addedTokens) {
    const number = /^<new(\d+)>$/.exec(word)?.[1];
    if (number !== undefined) free = Math.max(free, Number(number) + 1);
  }
  return free;
}

/** Replaces all words in one pass, the longest first, so that no replacement is replaced again. */
function wordReplacer(tokens: readonly BoundToken[]): (prompt: string, layer: number) => string {
  const byWord = new Map(tokens.map((token) => [token.word.toLowerCase(), token]));
  const matcher = new WordMatcher(byWord.keys(), PROMPT_WORDS);
  return (prompt, layer) => matcher.replace(prompt, (word) => byWord.get(word)!.names[layer]!);
}

/**
 * The concept under other words.
 * @param map old word to new word
 * @throws {UsageError} if an old word is not the concept's, or two words become the same
 */
export function renameTokens(concept: Concept, map: ReadonlyMap<string, string>): Concept {
  for (const old of map.keys()) {
    if (!concept.tokens.some(({ word }) => word === old)) {
      const words = concept.tokens.map(({ word }) => word).join(', ') || 'none';
      throw new UsageError(`${concept.path}: cannot rename ${old}; its words are: ${words}`);
    }
  }
  const tokens = concept.tokens.map((token) => ({ ...token, word: map.get(token.word) ?? token.word }));
  const seen = new Set<string>();
  for (const { word } of tokens) {
    if (seen.has(word.toLowerCase())) throw new UsageError(`${concept.path}: two words would become ${word}`);
    seen.add(word.toLowerCase());
  }
  return { ...concept, tokens };
}
