/**
 * Known words in text: leftmost, and there the longest; on demand whole words alone. A tree of characters rather than a regular expression of
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

export interface MatchRules {
  /** Of each character of words and texts before they are compared, e.g. to lower case. Default: as it is. */
  readonly fold?: (char: string) => string;
  /** Whether a letter or digit at a word's edge must be the end of a run of them: `foo2` is not in `foo20`. Default false. */
  readonly whole?: boolean;
}

/** How prompts call words: in any case, and as whole words. */
export const PROMPT_WORDS: MatchRules = { fold: (char) => char.toLowerCase(), whole: true };

/** Letters of any script, marks on them, digits, and the underscore that numbers a word's tokens. */
const inRun = /[\p{L}\p{M}\p{N}_]/u;

export class WordMatcher {
  readonly #root: Branch = { next: new Map(), word: null };
  readonly #fold: (char: string) => string;
  readonly #whole: boolean;

  /** @param words none empty */
  constructor(words: Iterable<string>, { fold = (char) => char, whole = false }: MatchRules = {}) {
    this.#fold = fold;
    this.#whole = whole;
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
    if (this.#whole && isJoined(text, start)) return null;
    let branch = this.#root;
    for (let end = start; end < text.length; ) {
      const length = charLength(text, end);
      const next = branch.next.get(this.#fold(text.slice(end, end + length)));
      if (next === undefined) break;
      branch = next;
      end += length;
      if (branch.word !== null && !(this.#whole && isJoined(text, end))) {
        longest = { start, end, word: branch.word };
      }
    }
    return longest;
  }
}

/** Whether the characters on both sides of a place are of one run of letters and digits. */
function isJoined(text: string, place: number): boolean {
  if (place === 0 || place === text.length) return false;
  const low = text.charCodeAt(place - 1);
  const start = low >= 0xdc00 && low <= 0xdfff && place > 1 ? place - 2 : place - 1;
  return (
    inRun.test(String.fromCodePoint(text.codePointAt(start)!)) &&
    inRun.test(String.fromCodePoint(text.codePointAt(place)!))
  );
}

/** Code units of the character at an index. */
function charLength(text: string, index: number): number {
  return text.codePointAt(index)! > 0xffff ? 2 : 1;
}
