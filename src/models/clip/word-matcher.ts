/**
 * Known words in text: leftmost, and there the longest. A tree of characters rather than a regular expression of
 * alternatives, whose size and time grow with the number of words.
 */

/** One step down the tree; `word` ends here if it is set. */
interface Branch {
  readonly next: Map<string, Branch>;
  word: string | null;
}

/** A word found in a text. */
export interface FoundWord {
  readonly start: number;
  readonly end: number;
  /** As it was given to the matcher. */
  readonly word: string;
}

export class WordMatcher {
  readonly #root: Branch = { next: new Map(), word: null };
  readonly #fold: (char: string) => string;

  /**
   * @param words none empty
   * @param fold  of each character of words and texts before they are compared, e.g. to lower case. Default: as it is.
   */
  constructor(words: Iterable<string>, fold: (char: string) => string = (char) => char) {
    this.#fold = fold;
    for (const word of words) {
      let branch = this.#root;
      for (const char of word) {
        const key = fold(char);
        let next = branch.next.get(key);
        if (next === undefined) {
          next = { next: new Map(), word: null };
          branch.next.set(key, next);
        }
        branch = next;
      }
      branch.word = word;
    }
  }

  /** All words of a text that do not overlap, from left to right. Time: text times longest word, at worst. */
  find(text: string): FoundWord[] {
    const found: FoundWord[] = [];
    if (this.#root.next.size === 0) return found;
    for (let start = 0; start < text.length; ) {
      const longest = this.#longestAt(text, start);
      if (longest !== null) found.push(longest);
      start = longest?.end ?? start + charLength(text, start);
    }
    return found;
  }

  /** The text with other words in place of those found. @param by from a word as it was given to the matcher */
  replace(text: string, by: (word: string) => string): string {
    const pieces: string[] = [];
    let end = 0;
    for (const found of this.find(text)) {
      pieces.push(text.slice(end, found.start), by(found.word));
      end = found.end;
    }
    return end === 0 ? text : pieces.join('') + text.slice(end);
  }

  #longestAt(text: string, start: number): FoundWord | null {
    let longest: FoundWord | null = null;
    let branch = this.#root;
    for (let end = start; end < text.length; ) {
      const length = charLength(text, end);
      const next = branch.next.get(this.#fold(text.slice(end, end + length)));
      if (next === undefined) break;
      branch = next;
      end += length;
      if (branch.word !== null) longest = { start, end, word: branch.word };
    }
    return longest;
  }
}

/** Code units of the character at an index. */
function charLength(text: string, index: number): number {
  return text.codePointAt(index)! > 0xffff ? 2 : 1;
}
