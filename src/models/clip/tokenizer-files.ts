/**
 * A CLIP tokenizer's files: vocabulary, merges, special and added words, read with distrust and checked against each
 * other. What they mean for a text is `tokenizer.ts`'s.
 */

import { FormatError, UsageError } from '../../errors.ts';
import { jsonExcerpt } from '../../formats/excerpt.ts';
import { parseJson } from '../../formats/strict-json.ts';
import { stat } from '../../io/platform/disk.ts';
import * as path from '../../io/platform/paths.ts';
import { readTextFile } from '../../io/read-small-file.ts';
import { Pace } from '../../pace.ts';
import {
  type BytePairVocabulary,
  bytePairVocabulary,
  checkVocabulary,
  endOfWord,
  parseMergeLines,
} from './bpe.ts';

/** A word that is matched as a whole before byte-pair encoding. */
export interface AddedToken {
  readonly word: string;
  readonly id: number;
  /** Matched on normalised text (so in any case) or on the text as written. */
  readonly normalized: boolean;
  /** Begin, end, padding: left out when decoding. */
  readonly special: boolean;
}

/** All that a tokenizer's files say. Ids are 0 … n − 1, each given once. */
export interface TokenizerFiles {
  readonly vocabulary: BytePairVocabulary;
  readonly added: readonly AddedToken[];
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  readonly unknownId: number;
}

/** Larger files are refused unread. OpenAI's vocabulary is 1 MB, as tokenizer.json 2 MB. */
const maxFileBytes = 8 << 20;

export const bosWord = '<|startoftext|>';
export const eosWord = '<|endoftext|>';

/** As `loadTokenizer`, which documents it. */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const info = await stat(folder).catch((cause: unknown) => {
    throw new FormatError(folder, 'no such tokenizer folder', { cause });
  });
  if (!info.isDirectory()) {
    throw new UsageError(
      `${folder}: a single-file checkpoint holds no vocabulary; give the folder with vocab.json and merges.txt of its model (for SD 1.x the "tokenizer" folder of any diffusers copy, or of openai/clip-vit-large-patch14) with \`configFolder\``,
    );
  }
  // Megabytes of JSON take a third of a second a stage.
  const pace = new Pace();
  for (const candidate of [folder, path.join(folder, 'tokenizer')]) {
    const config = await readJsonObject(path.join(candidate, 'tokenizer_config.json'));
    const vocabFile = path.join(candidate, 'vocab.json');
    const vocabText = await readText(vocabFile);
    if (vocabText !== null) {
      const mergesFile = path.join(candidate, 'merges.txt');
      const mergesText = await readText(mergesFile);
      if (mergesText === null) throw new FormatError(mergesFile, 'missing; it belongs beside vocab.json');
      const parsed = parseJson(vocabText, vocabFile);
      await pace.turn();
      const ids = checkVocabulary(vocabFile, parsed);
      await pace.turn();
      const merges = parseMergeLines(mergesFile, mergesText);
      await pace.turn();
      const vocabulary = bytePairVocabulary(mergesFile, ids, merges);
      await pace.turn();
      const specialMap = await readJsonObject(path.join(candidate, 'special_tokens_map.json'));
      const addedFile = path.join(candidate, 'added_tokens.json');
      const addedText = await readText(addedFile);
      const declared = [
        ...(addedText === null ? [] : addedFromMap(addedFile, parseJson(addedText, addedFile))),
        ...addedFromDecoder(path.join(candidate, 'tokenizer_config.json'), config?.added_tokens_decoder),
      ];
      return assemble(candidate, vocabulary, declared, { ...specialMap, ...config });
    }
    const fastFile = path.join(candidate, 'tokenizer.json');
    const fastText = await readText(fastFile);
    if (fastText !== null) {
      const parsed = parseJson(fastText, fastFile);
      await pace.turn();
      const { vocabulary, declared } = fromTokenizerJson(fastFile, parsed);
      await pace.turn();
      return assemble(candidate, vocabulary, declared, config ?? {});
    }
  }
  throw new FormatError(
    folder,
    'expected vocab.json and merges.txt (or tokenizer.json); give the folder that holds them with `configFolder`',
  );
}

/** Put special words and added words on top of a vocabulary and check that ids are 0 … n − 1. */
function assemble(
  folder: string,
  vocabulary: BytePairVocabulary,
  declared: readonly AddedToken[],
  config: Readonly<Record<string, unknown>>,
): TokenizerFiles {
  const added = new Map<string, AddedToken>();
  for (const token of declared) {
    const other = added.get(token.word);
    const inVocabulary = vocabulary.ids.get(token.word);
    if (
      (other !== undefined && other.id !== token.id) ||
      (inVocabulary !== undefined && inVocabulary !== token.id)
    ) {
      throw new FormatError(folder, `added token ${jsonExcerpt(token.word)} has two ids`);
    }
    added.set(token.word, token);
  }
  const declaredOf: ReadonlyMap<string, AddedToken> = new Map(added);
  const idOf = (word: string): number | undefined => added.get(word)?.id ?? vocabulary.ids.get(word);

  const special = (key: string, fallback: string): number => {
    const { word, normalized: given } = specialToken(folder, key, config[key], fallback);
    const id = idOf(word);
    if (id === undefined) {
      throw new FormatError(
        folder,
        `${key} ${jsonExcerpt(word)} is not in the vocabulary; not a CLIP tokenizer?`,
      );
    }
    // One word often serves as end, unknown and padding; the last to say how it matches wins, as in transformers.
    const normalized = declaredOf.get(word)?.normalized ?? given ?? added.get(word)?.normalized ?? false;
    added.set(word, { word, id, normalized, special: true });
    return id;
  };
  const bosId = special('bos_token', bosWord);
  const eosId = special('eos_token', eosWord);
  const unknownId = special('unk_token', eosWord);
  const padId = special('pad_token', eosWord);

  const wordOfId = new Map<number, string>();
  for (const [word, id] of [
    ...vocabulary.ids,
    ...[...added.values()].map(({ word, id }) => [word, id] as const),
  ]) {
    const other = wordOfId.get(id);
    if (other !== undefined && other !== word) {
      throw new FormatError(
        folder,
        `id ${id} is given to both ${jsonExcerpt(other)} and ${jsonExcerpt(word)}`,
      );
    }
    wordOfId.set(id, word);
  }
  for (let id = 0; id < wordOfId.size; id++) {
    if (!wordOfId.has(id)) {
      throw new FormatError(
        folder,
        `${wordOfId.size} tokens, but none has id ${id}; the vocabulary is incomplete`,
      );
    }
  }
  return {
    vocabulary,
    added: [...added.values()].sort((a, b) => a.id - b.id),
    bosId,
    eosId,
    padId,
    unknownId,
  };
}

/** A special word as `tokenizer_config.json` spells it: an object, or a plain string (then matched as written only). */
function specialToken(
  folder: string,
  key: string,
  value: unknown,
  fallback: string,
): { word: string; normalized: boolean | undefined } {
  if (value === undefined || value === null) return { word: fallback, normalized: undefined };
  if (typeof value === 'string') return { word: value, normalized: false };
  if (isObject(value) && typeof value.content === 'string') {
    return { word: value.content, normalized: value.normalized !== false };
  }
  throw new FormatError(
    folder,
    `${key}: expected a string or an object with "content", got ${jsonExcerpt(value)}`,
  );
}

/** `added_tokens.json`: word to id. */
function addedFromMap(file: string, value: unknown): AddedToken[] {
  if (isObject(value) && Object.keys(value).length === 0) return [];
  return [...checkVocabulary(file, value)].map(([word, id]) => ({
    word,
    id,
    normalized: true,
    special: false,
  }));
}

/** `added_tokens_decoder` of `tokenizer_config.json`: id (as a string) to token object. */
function addedFromDecoder(file: string, value: unknown): AddedToken[] {
  if (value === undefined) return [];
  if (!isObject(value)) throw new FormatError(file, 'added_tokens_decoder: expected an object');
  return Object.entries(value).map(([id, token]) => addedFromObject(file, Number(id), token));
}

function addedFromObject(file: string, id: number, token: unknown): AddedToken {
  if (
    !Number.isSafeInteger(id) ||
    id < 0 ||
    !isObject(token) ||
    typeof token.content !== 'string' ||
    token.content === ''
  ) {
    throw new FormatError(file, `added token ${id}: expected an id ≥ 0 and an object with "content"`);
  }
  if (token.single_word === true) {
    throw new FormatError(
      file,
      `added token ${jsonExcerpt(token.content)}: "single_word" matching is not supported`,
    );
  }
  // Without lstrip and rstrip blanks around added words vanish all the same, so both mean nothing here.
  const special = token.special === true;
  return {
    word: token.content,
    id,
    special,
    normalized: typeof token.normalized === 'boolean' ? token.normalized : !special,
  };
}

/** Vocabulary, merges and added words of a `tokenizer.json` (byte-pair encoding with `</w>` only). */
function fromTokenizerJson(
  file: string,
  value: unknown,
): { vocabulary: BytePairVocabulary; declared: AddedToken[] } {
  const model = isObject(value) ? value.model : undefined;
  if (!isObject(value) || !isObject(model)) throw new FormatError(file, 'expected an object with "model"');
  if ((model.type !== undefined && model.type !== 'BPE') || model.end_of_word_suffix !== endOfWord) {
    throw new FormatError(
      file,
      `expected byte-pair encoding with "${endOfWord}" as CLIP has it, got ${jsonExcerpt(model.type)} with ${jsonExcerpt(model.end_of_word_suffix)}`,
    );
  }
  if (!Array.isArray(model.merges)) throw new FormatError(file, 'model.merges: expected a list');
  const merges = model.merges.map((merge: unknown, index): [string, string] => {
    const parts: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (Array.isArray(parts) && parts.length === 2) {
      const [first, second] = parts as unknown[];
      if (typeof first === 'string' && typeof second === 'string' && first !== '' && second !== '') {
        return [first, second];
      }
    }
    throw new FormatError(file, `model.merges[${index}]: expected two symbols, got ${jsonExcerpt(merge)}`);
  });
  const added = value.added_tokens ?? [];
  if (!Array.isArray(added)) throw new FormatError(file, 'added_tokens: expected a list');
  const ids = checkVocabulary(file, model.vocab);
  return {
    vocabulary: bytePairVocabulary(file, ids, merges),
    declared: added.map((token: unknown) =>
      addedFromObject(file, isObject(token) ? Number(token.id) : Number.NaN, token),
    ),
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Text of a file, `null` if it does not exist. */
async function readText(file: string): Promise<string | null> {
  const info = await stat(file).catch(() => null);
  return info === null ? null : readTextFile(file, maxFileBytes, 'a file of a tokenizer');
}

async function readJsonObject(file: string): Promise<Record<string, unknown> | null> {
  const text = await readText(file);
  if (text === null) return null;
  const value = parseJson(text, file);
  if (!isObject(value)) throw new FormatError(file, 'expected a JSON object');
  return value;
}
