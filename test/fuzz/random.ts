/** Random choices that are the same for the same seed, on every machine: sfc32, seeded by a hash of words and numbers. */

/** A stream of choices. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d = 1;

  /** @param words whatever names the stream, e.g. kind, seed and index */
  constructor(...words: readonly (string | number)[]) {
    const text = words.join('\0');
    [this.#a, this.#b, this.#c] = [hash(text, 0x9e3779b9), hash(text, 0x85ebca6b), hash(text, 0xc2b2ae35)];
    for (let i = 0; i < 12; i++) this.next();
  }

  /** 32 random bits, unsigned. */
  next(): number {
    const sum = (this.#a + this.#b + this.#d) | 0;
    this.#d = (this.#d + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A whole number in [0, limit); 0 for a limit of 0. */
  below(limit: number): number {
    return limit <= 1 ? 0 : Math.floor((this.next() / 2 ** 32) * limit);
  }

  /** A whole number in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** Small numbers often, large ones up to `limit` seldom; at least 1. */
  few(limit: number): number {
    return 1 + this.below(Math.min(limit, 2 ** this.below(Math.ceil(Math.log2(Math.max(2, limit))) + 1)));
  }

  chance(share: number): boolean {
    return this.next() / 2 ** 32 < share;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

/** FNV-1a with its last mixing made thorough. */
function hash(text: string, start: number): number {
  let value = start | 0;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  value = Math.imul(value ^ (value >>> 16), 0x7feb352d);
  value = Math.imul(value ^ (value >>> 15), 0x846ca68b);
  return value ^ (value >>> 16);
}
