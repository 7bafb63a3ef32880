/**
 * CLIP's tokenizer from the model's own files: text to ids and back, with words added for concepts.
 *
 * The rules are those of transformers' CLIPTokenizer (5.x): NFC, white space to single blanks, lower case; letters in
 * runs, digits one by one, everything else in runs; added words matched on the normalised text, the longest first.
 * OpenAI's own tokenizer also repairs mojibake and HTML entities; transformers and this one do not.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { FormatError, UsageError } from '../../errors.ts';
import {
  type BytePairVocabulary,
  bytePairEncode,
  bytePairVocabulary,
  bytesOfSymbols,
  checkVocabulary,
  endOfWord,
  parseMergeLines,
} from './bpe.ts';

/** A word that is matched as a whole before byte-pair encoding. */
interface AddedToken {
  readonly word: string;
  readonly id: number;
  /** Matched on normalised text (so in any case) or on the text as written. */
  readonly normalized: boolean;
  /** Begin, end, padding: left out when decoding. */
  readonly special: boolean;
}

interface TokenizerState {
  readonly vocabulary: BytePairVocabulary;
  readonly added: readonly AddedToken[];
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  readonly unknownId: number;
}

/** Larger files are refused unread. OpenAI's vocabulary is 1 MB. */
const maxFileBytes = 64 << 20;

const bosWord = '<|startoftext|>';
const eosWord = '<|endoftext|>';

const wordPattern =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
// The special words above keep their neighbours apart, but are then split like any text.
const classPattern = /\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** NFC, runs of white space to one blank, lower case (per character: no final sigma). */
function normalize(text: string): string {
  let lower = '';
  for (const char of text.normalize('NFC').replace(/\p{White_Space}+/gu, ' ')) lower += char.toLowerCase();
  return lower;
}

/** Finds added words in text: leftmost, and there the longest. `null` where there are none. */
interface WordMatcher {
  readonly pattern: RegExp;
  readonly tokenOf: ReadonlyMap<string, AddedToken>;
}

function wordMatcher(tokens: readonly AddedToken[], form: (word: string) => string): WordMatcher | null {
  if (tokens.length === 0) return null;
  const tokenOf = new Map(tokens.map((token) => [form(token.word), token]));
  const longestFirst = [...tokenOf.keys()].sort((a, b) => b.length - a.length);
  const source = longestFirst.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('|');
  return { pattern: new RegExp(source, 'gu'), tokenOf };
}

/** Cut `text` at every word of the matcher. */
function splitAt(text: string, matcher: WordMatcher | null): (string | AddedToken)[] {
  if (matcher === null) return [text];
  const pieces: (string | AddedToken)[] = [];
  let end = 0;
  for (const match of text.matchAll(matcher.pattern)) {
    if (match.index > end) pieces.push(text.slice(end, match.index));
    pieces.push(matcher.tokenOf.get(match[0])!);
    end = match.index + match[0].length;
  }
  if (end < text.length) pieces.push(text.slice(end));
  return pieces;
}

/** Text to ids with one vocabulary. Immutable: `withAddedTokens` returns another. */
export class ClipTokenizer {
  /** Id of `<|startoftext|>`. */
  readonly bosId: number;
  /** Id of `<|endoftext|>`. */
  readonly eosId: number;
  /** What fills `encodePadded`; for SD 1.x the same as `eosId`. */
  readonly padId: number;
  /** One more than the largest id: the rows that the token embedding needs, added words included. */
  readonly vocabSize: number;
  readonly #state: TokenizerState;
  readonly #wordOfId: ReadonlyMap<number, string>;
  readonly #addedById: ReadonlyMap<number, AddedToken>;
  readonly #idOfAdded: ReadonlyMap<string, number>;
  readonly #asWritten: WordMatcher | null;
  readonly #normalized: WordMatcher | null;

  constructor(state: TokenizerState) {
    this.#state = state;
    this.bosId = state.bosId;
    this.eosId = state.eosId;
    this.padId = state.padId;
    const wordOfId = new Map<number, string>();
    for (const [word, id] of state.vocabulary.ids) wordOfId.set(id, word);
    for (const { word, id } of state.added) wordOfId.set(id, word);
    this.#wordOfId = wordOfId;
    this.#addedById = new Map(state.added.map((token) => [token.id, token]));
    this.#idOfAdded = new Map(state.added.map(({ word, id }) => [word, id]));
    this.#asWritten = wordMatcher(
      state.added.filter((token) => !token.normalized),
      (word) => word,
    );
    this.#normalized = wordMatcher(
      state.added.filter((token) => token.normalized),
      normalize,
    );
    this.vocabSize = wordOfId.size;
  }

  /**
   * The same tokenizer with further words, numbered from `vocabSize` in the order given. Words match whole, in any
   * case, also inside other words; blanks around them vanish.
   * @throws {UsageError} if a word is empty, holds white space, is known already or collides with another
   */
  withAddedTokens(words: readonly string[]): ClipTokenizer {
    const added = [...this.#state.added];
    const taken = new Map(added.map(({ word }) => [normalize(word), word]));
    let id = this.vocabSize;
    for (const word of words) {
      if (word === '' || /\p{White_Space}/u.test(word)) {
        throw new UsageError(`token ${JSON.stringify(word)}: expected a word without white space`);
      }
      if (this.tokenId(word) !== undefined || this.tokenId(word + endOfWord) !== undefined) {
        throw new UsageError(
          `token "${word}": already in the vocabulary; rename it, e.g. to "<${word.replace(/[<>]/g, '')}1>"`,
        );
      }
      const other = taken.get(normalize(word));
      if (other !== undefined) {
        throw new UsageError(
          `token "${word}": ${other === word ? 'given twice' : `cannot be told from "${other}", letters' case does not count`}; rename one`,
        );
      }
      taken.set(normalize(word), word);
      added.push({ word, id: id++, normalized: true, special: false });
    }
    return new ClipTokenizer({ ...this.#state, added });
  }

  /** Id of a token exactly as the vocabulary spells it (`cat</w>`, `<smiley1>`); `undefined` if there is none. */
  tokenId(word: string): number | undefined {
    return this.#idOfAdded.get(word) ?? this.#state.vocabulary.ids.get(word);
  }

  /** Token of an id, as the vocabulary spells it. @throws {UsageError} if there is no such id */
  token(id: number): string {
    const word = this.#wordOfId.get(id);
    if (word === undefined) throw new UsageError(`token id ${id}: expected 0 … ${this.vocabSize - 1}`);
    return word;
  }

  /** Words added beyond the base vocabulary, special ones included, with their ids. */
  get addedTokens(): readonly { readonly word: string; readonly id: number }[] {
    return this.#state.added;
  }

  /** Ids with begin and end, neither cut nor padded. */
  encode(text: string): number[] {
    const ids = [this.bosId];
    for (const piece of splitAt(text, this.#asWritten)) {
      if (typeof piece !== 'string') {
        ids.push(piece.id);
        continue;
      }
      for (const part of splitAt(normalize(piece), this.#normalized)) {
        if (typeof part === 'string') this.#encodePlain(part, ids);
        else ids.push(part.id);
      }
    }
    ids.push(this.eosId);
    return ids;
  }

  /**
   * Exactly `length` ids: cut to begin + `length − 2` + end, or filled with `padId`.
   * `attentionLength` counts the ids that are not padding (begin and end included).
   */
  encodePadded(text: string, length = 77): { ids: number[]; attentionLength: number } {
    if (!Number.isInteger(length) || length < 2) {
      throw new UsageError(`encodePadded: expected a length of at least 2, got ${length}`);
    }
    let ids = this.encode(text);
    if (ids.length > length) ids = [...ids.slice(0, length - 1), this.eosId];
    const attentionLength = ids.length;
    while (ids.length < length) ids.push(this.padId);
    return { ids, attentionLength };
  }

  /**
   * Text of ids, special tokens left out unless `keepSpecial`. Not the inverse of `encode`: case and blanks are lost.
   * @throws {UsageError} if an id is not in the vocabulary
   */
  decode(ids: readonly number[], { keepSpecial = false }: { keepSpecial?: boolean } = {}): string {
    const bytes: number[] = [];
    for (const id of ids) {
      const word = this.token(id);
      if (!keepSpecial && this.#addedById.get(id)?.special === true) continue;
      bytes.push(...(bytesOfSymbols(word) ?? Buffer.from(word, 'utf8')));
    }
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));
    return text.replaceAll(endOfWord, ' ').replace(/^\p{White_Space}+|\p{White_Space}+$/gu, '');
  }

  #encodePlain(text: string, ids: number[]): void {
    const { vocabulary, unknownId } = this.#state;
    for (const [word] of text.matchAll(wordPattern)) {
      const parts = word === bosWord || word === eosWord ? word.matchAll(classPattern) : [[word]];
      for (const [part] of parts) {
        for (const symbol of bytePairEncode(vocabulary, part!))
          ids.push(vocabulary.ids.get(symbol) ?? unknownId);
      }
    }
  }
}

/**
 * Read a tokenizer from a folder with `vocab.json` and `merges.txt` (beside them, where present, `added_tokens.json`,
 * `tokenizer_config.json` and `special_tokens_map.json`), or else with `tokenizer.json`. A model folder with a
 * `tokenizer/` inside will do as well.
 *
 * @throws {FormatError} if files are missing, damaged or do not belong together
 * @throws {UsageError} if `folder` is a file: single-file checkpoints carry no vocabulary
 */
export async function loadTokenizer(folder: string): Promise<ClipTokenizer> {
  const info = await stat(folder).catch((cause: unknown) => {
    throw new FormatError(folder, 'no such tokenizer folder', { cause });
  });
  if (!info.isDirectory()) {
    throw new UsageError(
      `${folder}: a single-file checkpoint holds no vocabulary; give the folder with vocab.json and merges.txt of its model (for SD 1.x the "tokenizer" folder of any diffusers copy, or of openai/clip-vit-large-patch14) with --tokenizer`,
    );
  }
  for (const candidate of [folder, path.join(folder, 'tokenizer')]) {
    const config = await readJsonObject(path.join(candidate, 'tokenizer_config.json'));
    const vocabFile = path.join(candidate, 'vocab.json');
    const vocabText = await readText(vocabFile);
    if (vocabText !== null) {
      const mergesFile = path.join(candidate, 'merges.txt');
      const mergesText = await readText(mergesFile);
      if (mergesText === null) throw new FormatError(mergesFile, 'missing; it belongs beside vocab.json');
      const ids = checkVocabulary(vocabFile, parseJson(vocabFile, vocabText));
      const vocabulary = bytePairVocabulary(mergesFile, ids, parseMergeLines(mergesFile, mergesText));
      const specialMap = await readJsonObject(path.join(candidate, 'special_tokens_map.json'));
      const addedFile = path.join(candidate, 'added_tokens.json');
      const addedText = await readText(addedFile);
      const declared = [
        ...(addedText === null ? [] : addedFromMap(addedFile, parseJson(addedFile, addedText))),
        ...addedFromDecoder(path.join(candidate, 'tokenizer_config.json'), config?.added_tokens_decoder),
      ];
      return assemble(candidate, vocabulary, declared, { ...specialMap, ...config });
    }
    const fastFile = path.join(candidate, 'tokenizer.json');
    const fastText = await readText(fastFile);
    if (fastText !== null) {
      const { vocabulary, declared } = fromTokenizerJson(fastFile, parseJson(fastFile, fastText));
      return assemble(candidate, vocabulary, declared, config ?? {});
    }
  }
  throw new FormatError(
    folder,
    'expected vocab.json and merges.txt (or tokenizer.json); give the folder that holds them with --tokenizer',
  );
}

/** Put special words and added words on top of a vocabulary and check that ids are 0 … n − 1. */
function assemble(
  folder: string,
  vocabulary: BytePairVocabulary,
  declared: readonly AddedToken[],
  config: Readonly<Record<string, unknown>>,
): ClipTokenizer {
  const added = new Map<string, AddedToken>();
  for (const token of declared) {
    const other = added.get(token.word);
    const inVocabulary = vocabulary.ids.get(token.word);
    if (
      (other !== undefined && other.id !== token.id) ||
      (inVocabulary !== undefined && inVocabulary !== token.id)
    ) {
      throw new FormatError(folder, `added token ${JSON.stringify(token.word)} has two ids`);
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
        `${key} ${JSON.stringify(word)} is not in the vocabulary; not a CLIP tokenizer?`,
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
        `id ${id} is given to both ${JSON.stringify(other)} and ${JSON.stringify(word)}`,
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
  return new ClipTokenizer({
    vocabulary,
    added: [...added.values()].sort((a, b) => a.id - b.id),
    bosId,
    eosId,
    padId,
    unknownId,
  });
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
    `${key}: expected a string or an object with "content", got ${JSON.stringify(value)}`,
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
      `added token ${JSON.stringify(token.content)}: "single_word" matching is not supported`,
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
      `expected byte-pair encoding with "${endOfWord}" as CLIP has it, got ${JSON.stringify(model.type)} with ${JSON.stringify(model.end_of_word_suffix)}`,
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
    throw new FormatError(file, `model.merges[${index}]: expected two symbols, got ${JSON.stringify(merge)}`);
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
  if (info === null) return null;
  if (!info.isFile()) throw new FormatError(file, 'expected a file');
  if (info.size > maxFileBytes) {
    throw new FormatError(file, `${info.size} bytes; no tokenizer is larger than ${maxFileBytes}`);
  }
  return readFile(file, 'utf8').catch((cause: unknown) => {
    throw new FormatError(file, 'cannot be read', { cause });
  });
}

async function readJsonObject(file: string): Promise<Record<string, unknown> | null> {
  const text = await readText(file);
  if (text === null) return null;
  const value = parseJson(file, text);
  if (!isObject(value)) throw new FormatError(file, 'expected a JSON object');
  return value;
}

function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(file, `not valid JSON (${(cause as Error).message})`, { cause });
  }
}
