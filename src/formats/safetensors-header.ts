/**
 * The JSON header of a safetensors file, read by its own small scanner, because `JSON.parse` hides what must be
 * refused: names that occur twice, `2.0` where a whole number belongs, numbers beyond 2^53.
 */
import type { FormatError } from '../errors.ts';
import { type DType, dtypeWidth, isDType } from './dtype.ts';
import { elementCount } from './raw-tensor.ts';

/** One tensor's entry: dtype, shape and its bytes `[begin, end)` within the data part. */
export interface HeaderEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order in which the header names them. */
  readonly entries: readonly HeaderEntry[];
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Parse and check a header.
 * @param text  the header, decoded
 * @param error makes an error that names the file
 * @throws {FormatError} for anything but one JSON object of well-formed entries with distinct names
 */
export function parseSafetensorsHeader(
  text: string,
  error: (message: string) => FormatError,
): SafetensorsHeader {
  const scanner = new HeaderScanner(text, error);
  const entries: HeaderEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  if (!text.startsWith('{')) throw error('expected a header that begins with "{"');
  scanner.object((name) => {
    if (name === '__metadata__') metadata = scanMetadata(scanner);
    else entries.push(scanEntry(scanner, name, error));
  });
  scanner.end();
  return { entries, metadata };
}

function scanMetadata(scanner: HeaderScanner): Map<string, string> {
  const metadata = new Map<string, string>();
  scanner.object((key) => metadata.set(key, scanner.string()));
  return metadata;
}

function scanEntry(
  scanner: HeaderScanner,
  name: string,
  error: (message: string) => FormatError,
): HeaderEntry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  scanner.object((field) => {
    if (field === 'dtype') dtype = scanner.string();
    else if (field === 'shape') shape = scanner.wholeNumbers();
    else if (field === 'data_offsets') offsets = scanner.wholeNumbers();
    else throw error(`tensor "${name}": expected dtype, shape and data_offsets, got the field "${field}"`);
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    const missing = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets';
    throw error(`tensor "${name}": expected dtype, shape and data_offsets, got no ${missing}`);
  }
  if (!isDType(dtype)) {
    throw error(`tensor "${name}": expected a known dtype, got "${dtype}"`);
  }
  const [begin, end, ...more] = offsets;
  if (begin === undefined || end === undefined || more.length > 0 || begin > end) {
    throw error(`tensor "${name}": expected data_offsets [begin, end], got [${offsets.join(', ')}]`);
  }
  const needed = elementCount(shape) * dtypeWidth(dtype);
  if (needed !== end - begin) {
    const needs = Number.isNaN(needed) ? 'more than any file holds' : `${needed} bytes`;
    throw error(
      `tensor "${name}": ${dtype} [${shape.join(', ')}] needs ${needs}, data_offsets give ${end - begin}`,
    );
  }
  return { name, dtype, shape, begin, end };
}

/** A strict JSON scanner for the three shapes a header holds: objects, strings, arrays of whole numbers. */
class HeaderScanner {
  readonly #text: string;
  readonly #error: (message: string) => FormatError;
  #position = 0;

  constructor(text: string, error: (message: string) => FormatError) {
    this.#text = text;
    this.#error = error;
  }

  /** The next character after white space, not consumed. */
  #peek(): string {
    const space = /[ \t\n\r]*/y;
    space.lastIndex = this.#position;
    space.test(this.#text);
    this.#position = space.lastIndex;
    return this.#text.charAt(this.#position);
  }

  #expect(character: string): void {
    if (this.#peek() !== character) throw this.#unexpected(`"${character}"`);
    this.#position++;
  }

  #unexpected(expected: string): FormatError {
    const found = this.#text.slice(this.#position, this.#position + 20);
    const got = found === '' ? 'its end' : JSON.stringify(found);
    return this.#error(`header, character ${this.#position}: expected ${expected}, got ${got}`);
  }

  /** Scan an object; `member` is called with each name and scans the value. */
  object(member: (name: string) => void): void {
    const names = new Set<string>();
    this.#expect('{');
    if (this.#peek() === '}') {
      this.#position++;
      return;
    }
    for (;;) {
      const name = this.string();
      if (names.has(name)) throw this.#error(`header: the name ${JSON.stringify(name)} occurs twice`);
      names.add(name);
      this.#expect(':');
      member(name);
      if (this.#peek() !== ',') break;
      this.#position++;
    }
    this.#expect('}');
  }

  string(): string {
    if (this.#peek() !== '"') throw this.#unexpected('a string');
    const token = /"(?:[^"\\]|\\.)*"/sy;
    token.lastIndex = this.#position;
    const match = token.exec(this.#text);
    if (match === null) throw this.#unexpected('a closed string');
    let value: unknown;
    try {
      value = JSON.parse(match[0]);
    } catch {
      throw this.#unexpected('a JSON string');
    }
    if (typeof value !== 'string' || /\p{Surrogate}/u.test(value))
      throw this.#unexpected('well-formed Unicode');
    this.#position = token.lastIndex;
    return value;
  }

  wholeNumbers(): number[] {
    const numbers: number[] = [];
    this.#expect('[');
    if (this.#peek() === ']') {
      this.#position++;
      return numbers;
    }
    for (;;) {
      this.#peek();
      const token = /(?:0|[1-9][0-9]{0,15})(?![0-9.eE])/y;
      token.lastIndex = this.#position;
      const number = Number(token.exec(this.#text)?.[0]);
      if (!Number.isSafeInteger(number)) throw this.#unexpected('a whole number ≥ 0 and below 2^53');
      numbers.push(number);
      this.#position = token.lastIndex;
      if (this.#peek() !== ',') break;
      this.#position++;
    }
    this.#expect(']');
    return numbers;
  }

  /** Only white space may follow. */
  end(): void {
    if (this.#peek() !== '') throw this.#unexpected('the end of the header');
  }
}
