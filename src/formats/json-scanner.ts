/**
 * A strict JSON scanner for text that a file brings. `JSON.parse` hides what must be refused (names that occur twice,
 * `2.0` where a whole number belongs, numbers beyond 2^53) and makes gigabytes of objects out of megabytes of brackets.
 * Scans by character codes: a regular expression over a string of 2^23 characters overflows its stack.
 */
import type { EdloraError } from '../errors.ts';
import type { Steps } from '../pace.ts';

/** Nesting of values that are stepped over. Headers and indices of weight files have two levels. */
const MAX_DEPTH = 64;

/** Members of an object between two steps, and values that are stepped over. */
const STEP_MEMBERS = 64;
const STEP_VALUES = 1 << 12;

/** Characters of a number or a literal. */
const MAX_TOKEN_CHARACTERS = 400;

const [BACKSLASH, ZERO, NINE] = [0x5c, 0x30, 0x39];

export class JsonScanner {
  readonly #text: string;
  readonly #part: string;
  readonly #error: (message: string) => EdloraError;
  #position = 0;

  /**
   * @param part  what the text is, for errors: `header`, `index`
   * @param error makes an error that names the file
   */
  constructor(text: string, part: string, error: (message: string) => EdloraError) {
    this.#text = text;
    this.#part = part;
    this.#error = error;
  }

  /** The next character after white space, not consumed; empty at the end. */
  peek(): string {
    for (; ; this.#position++) {
      const code = this.#text.charCodeAt(this.#position);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) break;
    }
    return this.#text.charAt(this.#position);
  }

  /** An error that says what should stand here and what does. */
  unexpected(expected: string): EdloraError {
    const found = this.#text.slice(this.#position, this.#position + 20);
    const got = found === '' ? 'its end' : JSON.stringify(found);
    return this.#error(`${this.#part}, character ${this.#position}: expected ${expected}, got ${got}`);
  }

  #expect(character: string): void {
    if (this.peek() !== character) throw this.unexpected(`"${character}"`);
    this.#position++;
  }

  /**
   * Scan an object; `member` is called with each name and scans the value.
   * @param limit most members
   */
  *object(limit: number, member: (name: string) => Steps<void> | void): Steps<void> {
    const names = new Set<string>();
    this.#expect('{');
    if (this.peek() === '}') {
      this.#position++;
      return;
    }
    for (;;) {
      const steps = member(this.#member(names, limit));
      if (steps !== undefined) yield* steps;
      if (names.size % STEP_MEMBERS === 0) yield;
      if (this.peek() !== ',') break;
      this.#position++;
    }
    this.#expect('}');
  }

  /** The next name of an object, and the colon behind it. @param names those before it; gets it too */
  #member(names: Set<string>, limit: number): string {
    const name = this.string();
    if (names.has(name)) throw this.#error(`${this.#part}: the name ${JSON.stringify(name)} occurs twice`);
    if (names.size === limit) {
      throw this.#error(`${this.#part}: expected at most ${limit} names in one object, got more`);
    }
    names.add(name);
    this.#expect(':');
    return name;
  }

  /** A string of well-formed Unicode. */
  string(): string {
    if (this.peek() !== '"') throw this.unexpected('a string');
    const end = this.#closingQuote();
    if (end < 0) throw this.unexpected('a closed string');
    const token = this.#text.slice(this.#position, end + 1);
    let value: unknown;
    try {
      value = JSON.parse(token);
    } catch {
      throw this.unexpected('a JSON string');
    }
    // Only an escape can bring half a character: the text itself was decoded.
    if (typeof value !== 'string' || (token.includes('\\') && /\p{Surrogate}/u.test(value))) {
      throw this.unexpected('well-formed Unicode');
    }
    this.#position = end + 1;
    return value;
  }

  /** Where the string that starts here ends: at the first quote after an even number of backslashes. */
  #closingQuote(): number {
    let end = this.#position;
    for (;;) {
      end = this.#text.indexOf('"', end + 1);
      if (end < 0) return -1;
      let first = end;
      while (this.#text.charCodeAt(first - 1) === BACKSLASH) first--;
      if ((end - first) % 2 === 0) return end;
    }
  }

  /** An array of whole numbers, at most `limit` of them. */
  wholeNumbers(limit: number): number[] {
    const numbers: number[] = [];
    this.#expect('[');
    if (this.peek() === ']') {
      this.#position++;
      return numbers;
    }
    for (;;) {
      if (numbers.length === limit) throw this.unexpected(`at most ${limit} numbers`);
      numbers.push(this.#wholeNumber());
      if (this.peek() !== ',') break;
      this.#position++;
    }
    this.#expect(']');
    return numbers;
  }

  #wholeNumber(): number {
    this.peek();
    let number = 0;
    let end = this.#position;
    for (; number <= Number.MAX_SAFE_INTEGER; end++) {
      const digit = this.#text.charCodeAt(end) - ZERO;
      if (!(digit >= 0 && digit <= 9)) break;
      number = 10 * number + digit;
    }
    const length = end - this.#position;
    const leadingZero = length > 1 && this.#text.charCodeAt(this.#position) === ZERO;
    const goesOn = /[.eE]/.test(this.#text.charAt(end));
    if (length === 0 || leadingZero || goesOn || !Number.isSafeInteger(number)) {
      throw this.unexpected('a whole number ≥ 0 and below 2^53');
    }
    this.#position = end;
    return number;
  }

  /** The characters from here on that a number or a literal may consist of, and a few more than any has. */
  #token(): string {
    let end = this.#position;
    for (; end <= this.#position + MAX_TOKEN_CHARACTERS; end++) {
      const code = this.#text.charCodeAt(end);
      const digit = code >= ZERO && code <= NINE;
      // Letters of either case, "+", "-" and ".".
      const other = (code | 0x20) >= 0x61 && (code | 0x20) <= 0x7a;
      if (!(digit || other || code === 0x2b || code === 0x2d || code === 0x2e)) break;
    }
    return this.#text.slice(this.#position, end);
  }

  /** Step over any value, checked like the rest. @param limit most members of an object in it */
  *skip(limit: number): Steps<void> {
    /** Of the containers around: the names in an object, `null` for an array. */
    const around: (Set<string> | null)[] = [];
    for (let values = 1; ; values++) {
      if (values % STEP_VALUES === 0) yield;
      if (around.length > MAX_DEPTH) throw this.unexpected(`values nested at most ${MAX_DEPTH} deep`);
      const names = this.#enter(limit);
      if (names !== undefined) {
        around.push(names);
        continue;
      }
      if (!this.#leave(around, limit)) return;
    }
  }

  /** Step over a scalar or an empty container (`undefined`), or into a container, up to its first value. */
  #enter(limit: number): Set<string> | null | undefined {
    const start = this.peek();
    if (start !== '{' && start !== '[') {
      if (start === '"') this.string();
      else this.#scalar();
      return undefined;
    }
    this.#position++;
    if (this.peek() === (start === '{' ? '}' : ']')) {
      this.#position++;
      return undefined;
    }
    const names = start === '{' ? new Set<string>() : null;
    if (names !== null) this.#member(names, limit);
    return names;
  }

  /** From behind a value to the next one. @returns whether there is one before all of `around` is closed */
  #leave(around: (Set<string> | null)[], limit: number): boolean {
    for (let names = around.at(-1); names !== undefined; names = around.at(-1)) {
      if (this.peek() === ',') {
        this.#position++;
        if (names !== null) this.#member(names, limit);
        return true;
      }
      this.#expect(names === null ? ']' : '}');
      around.pop();
    }
    return false;
  }

  #scalar(): void {
    const token = this.#token();
    if (!/^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)$/.test(token)) {
      throw this.unexpected('a value');
    }
    this.#position += token.length;
  }

  /** Only white space may follow. */
  end(): void {
    if (this.peek() !== '') throw this.unexpected(`the end of the ${this.#part}`);
  }
}
