/**
 * JSON of files that others wrote. JSON.parse takes the last of two equal keys without a word, a key called `__proto__`,
 * and nesting that overflows the stack of whatever walks the result; here they are errors.
 */
import { FormatError } from '../errors.ts';
import { excerpt } from './excerpt.ts';

/** Configurations nest five deep; walking this many levels recursively is safe everywhere. */
export const MAX_DEPTH = 64;

/**
 * Parse a JSON text.
 * @param file named in messages
 * @throws {FormatError} if it is no JSON, nests deeper than 64, names a key twice in one object, or `__proto__`
 */
export function parseJson(text: string, file: string): unknown {
  // Depth first: it is the one thing that parsing and walking could not survive.
  checkDepth(text, file);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(
      file,
      `expected JSON, got text that is none (${excerpt((cause as Error).message, 120)})`,
      { cause },
    );
  }
  checkKeys(text, file);
  return value;
}

/** @throws {FormatError} where brackets outside of strings nest deeper than `MAX_DEPTH` */
function checkDepth(text: string, file: string): void {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === QUOTE) i = stringEnd(text, i);
    else if (char === OPEN_OBJECT || char === OPEN_LIST) {
      if (++depth > MAX_DEPTH) {
        throw new FormatError(file, `expected JSON nested at most ${MAX_DEPTH} deep, got more`);
      }
    } else if (char === CLOSE_OBJECT || char === CLOSE_LIST) depth--;
  }
}

/** Of a text that is known to be JSON. @throws {FormatError} naming a key that an object has twice */
function checkKeys(text: string, file: string): void {
  /** Keys of the objects around; null for a list. */
  const around: (Set<string> | null)[] = [];
  let keyNext = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    const keys = around.at(-1) ?? null;
    if (char === QUOTE) {
      const end = stringEnd(text, i);
      if (keyNext && keys !== null) {
        const key = JSON.parse(text.slice(i, end + 1)) as string;
        if (key === '__proto__') throw new FormatError(file, 'the key "__proto__" is not accepted');
        if (keys.has(key)) throw new FormatError(file, `the key "${excerpt(key)}" is there twice`);
        keys.add(key);
        keyNext = false;
      }
      i = end;
    } else if (char === OPEN_OBJECT || char === OPEN_LIST) {
      around.push(char === OPEN_OBJECT ? new Set() : null);
      keyNext = char === OPEN_OBJECT;
    } else if (char === CLOSE_OBJECT || char === CLOSE_LIST) {
      around.pop();
      keyNext = false;
    } else if (char === COMMA) keyNext = keys !== null;
  }
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;

/** Index of the closing quote of the string that opens at `start`; the text's length if it never closes. */
function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === BACKSLASH) i++;
    else if (char === QUOTE) return i;
  }
  return text.length;
}
