/**
 * Byte-pair encoding as CLIP uses it: bytes as printable symbols, the last symbol of a word marked `</w>`, merges by
 * rank. Holds the vocabulary and the merges, and the checks that make both trustworthy; text rules are `tokenizer.ts`'s.
 */

import { FormatError } from '../../errors.ts';
import { excerpt, jsonExcerpt } from '../../formats/excerpt.ts';
import { utf8Bytes } from '../../io/bytes.ts';

/** What marks the last symbol of a word. */
export const endOfWord = '</w>';

/**
 * The 256 printable characters that stand for bytes: the visible Latin-1 ones for themselves, the others moved to
 * U+0100 and up, in order.
 * Source: github.com/openai/CLIP clip/simple_tokenizer.py, bytes_to_unicode.
 */
export const byteSymbols: readonly string[] = (() => {
  const symbols: string[] = [];
  let moved = 0;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    symbols.push(String.fromCodePoint(visible ? byte : 256 + moved++));
  }
  return symbols;
})();

const byteOfSymbol = new Map(byteSymbols.map((symbol, byte) => [symbol, byte]));

/** Bytes written with `byteSymbols`; `null` if `text` holds another character. */
export function bytesOfSymbols(text: string): number[] | null {
  const bytes: number[] = [];
  for (const symbol of text) {
    const byte = byteOfSymbol.get(symbol);
    if (byte === undefined) return null;
    bytes.push(byte);
  }
  return bytes;
}

/** Symbol pairs to merge, and the vocabulary that names the results. */
export interface BytePairVocabulary {
  /** Token text (with `</w>` where it ends a word) to id. Ids are distinct whole numbers ≥ 0. */
  readonly ids: ReadonlyMap<string, number>;
  /** First symbol to second symbol to rank; lower ranks merge first. */
  readonly ranks: ReadonlyMap<string, ReadonlyMap<string, number>>;
}

/**
 * Check a parsed `vocab.json`: an object from token to id, ids distinct whole numbers.
 * @throws {FormatError} naming the token at fault
 */
export function checkVocabulary(file: string, value: unknown): Map<string, number> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new FormatError(file, 'expected a JSON object from token to id');
  }
  const entries = Object.entries(value);
  if (entries.length === 0) throw new FormatError(file, 'expected a vocabulary, got an empty object');
  const ids = new Map<string, number>();
  const tokenOfId = new Map<number, string>();
  for (const [token, id] of entries) {
    if (typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0) {
      throw new FormatError(
        file,
        `token ${jsonExcerpt(token)}: expected a whole number ≥ 0 as id, got ${jsonExcerpt(id)}`,
      );
    }
    const other = tokenOfId.get(id);
    if (other !== undefined) {
      throw new FormatError(
        file,
        `id ${id} is given to both ${jsonExcerpt(other)} and ${jsonExcerpt(token)}`,
      );
    }
    tokenOfId.set(id, token);
    ids.set(token, id);
  }
  return ids;
}

/** Lines of a `merges.txt` as pairs, the `#version` line left out. @throws {FormatError} naming the line at fault */
export function parseMergeLines(file: string, text: string): [string, string][] {
  const lines = text.split(/\r?\n/);
  while (lines.length > 0 && lines.at(-1) === '') lines.pop();
  const pairs: [string, string][] = [];
  lines.forEach((line, index) => {
    if (line.startsWith('#version')) return;
    const parts = line.split(' ');
    if (parts.length !== 2 || parts[0] === '' || parts[1] === '') {
      throw new FormatError(
        file,
        `line ${index + 1}: expected two symbols with one blank between them, got ${JSON.stringify(line.slice(0, 80))}`,
      );
    }
    pairs.push([parts[0]!, parts[1]!]);
  });
  return pairs;
}

/**
 * Rank the merges, which must name known tokens and occur once each.
 * @throws {FormatError} naming the merge at fault
 */
export function bytePairVocabulary(
  file: string,
  ids: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
): BytePairVocabulary {
  const ranks = new Map<string, Map<string, number>>();
  merges.forEach(([first, second], rank) => {
    for (const token of [first, second, first + second]) {
      if (!ids.has(token)) {
        throw new FormatError(
          file,
          `merge ${rank + 1} "${excerpt(`${first} ${second}`)}": ${jsonExcerpt(token)} is not in the vocabulary; do vocab.json and merges.txt belong together?`,
        );
      }
    }
    let seconds = ranks.get(first);
    if (seconds === undefined) {
      seconds = new Map();
      ranks.set(first, seconds);
    }
    if (seconds.has(second))
      throw new FormatError(file, `merge "${excerpt(`${first} ${second}`)}" is listed twice`);
    seconds.set(second, rank);
  });
  return { ids, ranks };
}

/**
 * Symbols of one word: its UTF-8 bytes, the last marked `</w>`, merged by rank, the leftmost first among equals.
 * Time: n log n in the word's bytes (checked against the `tokenizers` library by the goldens).
 */
export function bytePairEncode({ ranks }: BytePairVocabulary, word: string): string[] {
  const symbols: (string | null)[] = Array.from(utf8Bytes(word), (byte) => byteSymbols[byte]!);
  const count = symbols.length;
  if (count === 0) return [];
  symbols[count - 1] += endOfWord;
  // A merged symbol stands at its first byte; neighbours are linked, and the places it swallowed hold null.
  const before = Int32Array.from(symbols, (_, i) => i - 1);
  const after = Int32Array.from(symbols, (_, i) => (i + 1 < count ? i + 1 : -1));
  const candidates = new MergeQueue();
  const offer = (at: number): void => {
    const next = at < 0 ? -1 : after[at]!;
    if (next < 0) return;
    const rank = ranks.get(symbols[at]!)?.get(symbols[next]!);
    if (rank !== undefined) candidates.push({ rank, at, first: symbols[at]!, second: symbols[next]! });
  };
  for (let at = 0; at + 1 < count; at++) offer(at);
  for (let best = candidates.pop(); best !== undefined; best = candidates.pop()) {
    const { at, first, second } = best;
    const next = after[at]!;
    // One of both has merged with another neighbour since.
    if (symbols[at] !== first || next < 0 || symbols[next] !== second) continue;
    symbols[at] = first + second;
    symbols[next] = null;
    after[at] = after[next]!;
    if (after[at]! >= 0) before[after[at]!] = at;
    offer(before[at]!);
    offer(at);
  }
  return symbols.filter((symbol) => symbol !== null);
}

/** Two neighbours that may merge, as they were when they were found. */
interface Merge {
  readonly rank: number;
  /** Place of the first. */
  readonly at: number;
  readonly first: string;
  readonly second: string;
}

/** A binary heap: the lowest rank comes out first, among equals the leftmost. */
class MergeQueue {
  readonly #heap: Merge[] = [];

  push(merge: Merge): void {
    const heap = this.#heap;
    let place = heap.push(merge) - 1;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (!comesBefore(merge, heap[parent]!)) break;
      heap[place] = heap[parent]!;
      place = parent;
    }
    heap[place] = merge;
  }

  pop(): Merge | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (heap.length === 0 || last === undefined) return first;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && comesBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!comesBefore(heap[child]!, last)) break;
      heap[place] = heap[child]!;
      place = child;
    }
    heap[place] = last;
    return first;
  }
}

function comesBefore(a: Merge, b: Merge): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.at < b.at);
}
