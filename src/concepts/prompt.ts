/**
 * Concept words in prompts. Every cross-attention layer has its own embedding of a concept word, so one prompt becomes
 * L prompts: in the l-th, each concept word is replaced by its l-th layer token `<newK>`.
 *
 * Numbering is Mix-of-Show's: concepts in order, their words in order, L each.
 * Source: TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/pipeline_edlora.py (bind_concept_prompt).
 */
import { MismatchError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { ClipTokenizer } from '../models/clip/tokenizer.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { usualContextCount } from '../models/families/known-layers.ts';
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
  /** Knows the layer tokens; their ids follow the base vocabulary. */
  readonly tokenizer: ClipTokenizer;
  /** L. */
  readonly layerCount: number;
  readonly tokens: readonly BoundToken[];
  /** The prompt for each of the L layers. Words count in any case. */
  layerPrompts(prompt: string): string[];
  /** Ids of the prompt for each layer, L rows; padded (or cut) to 77, or as long as they are. */
  encode(prompt: string, options: { readonly pad: boolean }): number[][];
  /** Rows to append to the token embedding table, [count, D], word by word and layer by layer. */
  embeddingRows(): Float32Array;
  conceptConfig(): ConceptConfig;
}

/**
 * Give every concept word its layer tokens.
 * @param layerCount cross-attention layers of the base. Default: as many as the embeddings have rows; those of the default family if no concept
 *   has more than one row. A word with a single row [1, D] uses it in every layer.
 * @param installed words whose layer tokens are in the tokenizer already, as a fused checkpoint has them. Default none.
 * @throws {UsageError} if two files have the same word, or a word is in the vocabulary already
 * @throws {MismatchError} if embeddings differ in width or in layers, or an installed word has other tokens than the
 *   tokenizer
 */
export function bindConcepts(
  tokenizer: ClipTokenizer,
  concepts: readonly Concept[],
  layerCount = Math.max(
    0,
    ...concepts.flatMap(({ tokens }) => tokens.map(rowsOf).filter((rows) => rows > 1)),
  ) || usualContextCount(),
  installed: ConceptConfig = {},
): BoundVocabulary {
  const present = installedTokens(tokenizer, installed, layerCount);
  const owners = new Map<string, Concept>();
  const embeddings: ConceptToken[] = [];
  let width: number | undefined;
  for (const concept of concepts) {
    for (const token of concept.tokens) {
      checkWord(tokenizer, owners, concept, token.word);
      if (present.some(({ word }) => word.toLowerCase() === token.word.toLowerCase())) {
        throw new UsageError(
          `${concept.path}: the word ${token.word} is already one of the fused checkpoint`,
        );
      }
      const [rows, columns] = [rowsOf(token), token.embedding.shape[1]!];
      if (rows !== 1 && rows !== layerCount) {
        throw new MismatchError(
          `${concept.path}: embedding of ${token.word}: expected ${layerCount} layers, got ${rows}`,
        );
      }
      width ??= columns;
      if (columns !== width) {
        throw new MismatchError(
          `${concept.path}: embedding of ${token.word}: expected width ${width} as in ${embeddings[0]!.word}, got ${columns}; made for another base?`,
        );
      }
      owners.set(token.word.toLowerCase(), concept);
      embeddings.push(token);
    }
  }

  let next = firstFreeNumber(tokenizer);
  const names = embeddings.map(() => Array.from({ length: layerCount }, () => `<new${next++}>`));
  const extended = tokenizer.withAddedTokens(names.flat());
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
    layerCount,
    tokens,
    layerPrompts: (prompt) => Array.from({ length: layerCount }, (_, layer) => replace(prompt, layer)),
    encode(prompt, { pad }) {
      return this.layerPrompts(prompt).map((text) =>
        pad ? extended.encodePadded(text).ids : extended.encode(text),
      );
    },
    embeddingRows() {
      const columns = width ?? 0;
      const rows = new Float32Array(embeddings.length * layerCount * columns);
      embeddings.forEach((token, i) => {
        const values = readFloat32(token.embedding);
        for (let layer = 0; layer < layerCount; layer++) {
          const from = rowsOf(token) === 1 ? 0 : layer * columns;
          rows.set(values.subarray(from, from + columns), (i * layerCount + layer) * columns);
        }
      });
      return rows;
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

function rowsOf({ embedding }: ConceptToken): number {
  return embedding.shape[0]!;
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
