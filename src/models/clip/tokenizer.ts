/**
 * CLIP's tokenizer from the model's own files: text to ids and back, with words added for concepts.
 *
 * The rules are those of transformers' CLIPTokenizer (5.x): NFC, white space to single blanks, lower case; letters in
 * runs, digits one by one, everything else in runs; added words matched on the normalised text, the longest first.
 * OpenAI's own tokenizer also repairs mojibake and HTML entities; transformers and this one do not.
 */

import { UsageError } from '../../errors.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { utf8Bytes } from '../../io/bytes.ts';
import { bytePairEncode, bytesOfSymbols, endOfWord } from './bpe.ts';
import {
  type AddedToken,
  bosWord,
  eosWord,
  readTokenizerFiles,
  type TokenizerFiles,
} from './tokenizer-files.ts';
import { WordMatcher } from './word-matcher.ts';

const wordPattern =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
// The special words above keep their neighbours apart, but are then split like any text.
const classPattern = /\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** Some thousand windows of 75 tokens, which take about a second; what is longer was not written as a prompt. */
const MAX_TEXT_LENGTH = 1 << 19;

/** NFC, runs of white space to one blank, lower case (per character: no final sigma). */
function normalize(text: string): string {
  let lower = '';
  for (const char of composed(text).replace(/\p{White_Space}+/gu, ' ')) lower += char.toLowerCase();
  return lower;
}

/** So many marks on one letter in a row: no script has more than a handful. */
const MARKS = /(\p{M}{256})/u;

/** NFC. Sorting marks takes the square of their number, so longer rows of them are taken in pieces. */
function composed(text: string): string {
  return text
    .split(MARKS)
    .map((piece) => piece.normalize('NFC'))
    .join('');
}

/** Without white space at both ends, as Unicode has it. */
function trimmed(text: string): string {
  const blank = /\p{White_Space}/u;
  let [start, end] = [0, text.length];
  while (start < end && blank.test(text[start]!)) start++;
  while (end > start && blank.test(text[end - 1]!)) end--;
  return text.slice(start, end);
}

/** Added words by the form they are looked for in. */
interface AddedWords {
  readonly matcher: WordMatcher;
  readonly tokenOf: ReadonlyMap<string, AddedToken>;
}

function addedWords(tokens: readonly AddedToken[], form: (word: string) => string): AddedWords {
  const tokenOf = new Map(tokens.map((token) => [form(token.word), token]));
  return { matcher: new WordMatcher(tokenOf.keys()), tokenOf };
}

/** Cut `text` at every added word. */
function splitAt(text: string, { matcher, tokenOf }: AddedWords): (string | AddedToken)[] {
  const pieces: (string | AddedToken)[] = [];
  let end = 0;
  for (const found of matcher.find(text)) {
    if (found.start > end) pieces.push(text.slice(end, found.start));
    pieces.push(tokenOf.get(found.word)!);
    end = found.end;
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
  readonly #state: TokenizerFiles;
  readonly #wordOfId: ReadonlyMap<number, string>;
  readonly #addedById: ReadonlyMap<number, AddedToken>;
  readonly #idOfAdded: ReadonlyMap<string, number>;
  readonly #asWritten: AddedWords;
  readonly #normalized: AddedWords;

  constructor(state: TokenizerFiles) {
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
    this.#asWritten = addedWords(
      state.added.filter((token) => !token.normalized),
      (word) => word,
    );
    this.#normalized = addedWords(
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

  /** The same tokenizer with another word to fill up with. @throws {UsageError} if it is not in the vocabulary */
  withPadding(word: string): ClipTokenizer {
    const padId = this.tokenId(word);
    if (padId === undefined) throw new UsageError(`padding "${word}": expected a word of the vocabulary`);
    const added = this.#state.added.filter((token) => token.word !== word);
    const padding = { word, id: padId, normalized: false, special: true };
    return new ClipTokenizer({ ...this.#state, added: [...added, padding], padId });
  }

  /** Id of a token exactly as the vocabulary spells it (`cat</w>`, `<smiley1>`); `undefined` if there is none. */
  tokenId(word: string): number | undefined {
    return this.#idOfAdded.get(word) ?? this.#state.vocabulary.ids.get(word);
  }

  /** Whether a text is one token of the vocabulary, in any case. */
  isWord(text: string): boolean {
    return this.tokenId(text) !== undefined || this.tokenId(text.toLowerCase() + endOfWord) !== undefined;
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

  /** Ids with begin and end, neither cut nor padded. @throws {UsageError} for a text of more than 2¹⁹ characters */
  encode(text: string): number[] {
    if (text.length > MAX_TEXT_LENGTH) {
      throw new UsageError(
        `text "${excerpt(text)}": expected at most ${MAX_TEXT_LENGTH} characters, got ${text.length}`,
      );
    }
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
   * All of a text, however long, as windows of `length` ids one after the other: begin, up to `length − 2` ids, end, and
   * padding in the last one. A text that fits is `encodePadded`; an empty one is one window.
   */
  encodeWindows(text: string, length: number): number[] {
    const content = this.encode(text).slice(1, -1);
    const ids: number[] = [];
    for (let start = 0; start === 0 || start < content.length; start += length - 2) {
      const part = content.slice(start, start + length - 2);
      ids.push(this.bosId, ...part, this.eosId, ...Array<number>(length - 2 - part.length).fill(this.padId));
    }
    return ids;
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
      bytes.push(...(bytesOfSymbols(word) ?? utf8Bytes(word)));
    }
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));
    return trimmed(text.replaceAll(endOfWord, ' '));
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
  return new ClipTokenizer(await readTokenizerFiles(folder));
}
