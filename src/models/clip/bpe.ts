/**
 * Byte-pair encoding as CLIP uses it: bytes as printable symbols, the last symbol of a word marked `</w>`, merges by
 * rank. Holds the vocabulary and the merges, and the checks that make both trustworthy; text rules are `tokenizer.ts`'s.
 */
import { FormatError } from '../../errors.ts';

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
        `token ${JSON.stringify(token)}: expected a whole number ≥ 0 as id, got ${JSON.stringify(id)}`,
      );
    }
    const other = tokenOfId.get(id);
    if (other !== undefined) {
      throw new FormatError(
        file,
        `id ${id} is given to both ${JSON.stringify(other)} and ${JSON.stringify(token)}`,
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
          `merge ${rank + 1} "${first} ${second}": ${JSON.stringify(token)} is not in the vocabulary; do vocab.json and merges.txt belong together?`,
        );
      }
    }
    let seconds = ranks.get(first);
    if (seconds === undefined) {
      seconds = new Map();
      ranks.set(first, seconds);
    }
    if (seconds.has(second)) throw new FormatError(file, `merge "${first} ${second}" is listed twice`);
    seconds.set(second, rank);
  });
  return { ids, ranks };
}

/**
 * Symbols of one word: its UTF-8 bytes, the last marked `</w>`, merged by rank, the leftmost first among equals.
 *
 * All occurrences of the best pair merge in one pass, unless a merge creates a better pair: then the pass ends there,
 * which gives the same result as merging one pair at a time (checked against the `tokenizers` library by the goldens).
 */
export function bytePairEncode({ ranks }: BytePairVocabulary, word: string): string[] {
  let symbols = Array.from(Buffer.from(word, 'utf8'), (byte) => byteSymbols[byte]!);
  if (symbols.length === 0) return [];
  symbols[symbols.length - 1] += endOfWord;
  const rankOf = (first: string | undefined, second: string | undefined): number =>
    first === undefined || second === undefined
      ? Number.POSITIVE_INFINITY
      : (ranks.get(first)?.get(second) ?? Number.POSITIVE_INFINITY);

  for (;;) {
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) best = Math.min(best, rankOf(symbols[i], symbols[i + 1]));
    if (best === Number.POSITIVE_INFINITY) return symbols;
    const merged: string[] = [];
    let better = false;
    for (let i = 0; i < symbols.length; i++) {
      if (better || rankOf(symbols[i], symbols[i + 1]) !== best) {
        merged.push(symbols[i]!);
        continue;
      }
      const symbol = symbols[i]! + symbols[i + 1]!;
      better = rankOf(merged.at(-1), symbol) < best || rankOf(symbol, symbols[i + 2]) < best;
      merged.push(symbol);
      i++;
    }
    symbols = merged;
  }
}
