/** Scalars as pickles write them: lines of text (protocol 0) and binary runs with their length before them. */
import type { FormatError } from '../errors.ts';
import { hexText } from '../io/bytes.ts';
import type { ByteReader } from './byte-reader.ts';
import type { PickleCost } from './pickle-cost.ts';

const MAX_STRING_BYTES = 1 << 24;
/** Bounds the quadratic cost of converting to a big integer. */
const MAX_INTEGER_BYTES = 1024;
/** Also of names that are put together from two strings. */
export const MAX_LINE_BYTES = 1024;

const SPECIAL_FLOATS: ReadonlyMap<string, number> = new Map([
  ['nan', Number.NaN],
  ['inf', Number.POSITIVE_INFINITY],
  ['-inf', Number.NEGATIVE_INFINITY],
]);

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export class PickleLiterals {
  readonly #reader: ByteReader;
  readonly #cost: PickleCost;

  constructor(reader: ByteReader, cost: PickleCost) {
    this.#reader = reader;
    this.#cost = cost;
  }

  line(): string {
    return this.#decode(this.#reader.line(MAX_LINE_BYTES));
  }

  /** A string of so many bytes in UTF-8. */
  text(length: number): string {
    return this.#decode(this.#limited(length));
  }

  blob(length: number): Uint8Array {
    return this.#limited(length).slice();
  }

  /** A little-endian two's complement integer. */
  integer(length: number): number | bigint {
    if (length < 0 || length > MAX_INTEGER_BYTES) {
      throw this.#reader.error(
        `expected an integer of at most ${MAX_INTEGER_BYTES} bytes, got a length of ${length}`,
      );
    }
    const bytes = this.#reader.bytes(length);
    if (length === 0) return 0;
    const magnitude = BigInt(`0x${hexText(bytes.slice().reverse())}`);
    return compactInteger(BigInt.asIntN(8 * length, magnitude));
  }

  /** INT: 00 and 01 are the booleans. */
  integerLine(): number | bigint | boolean {
    const text = this.line();
    return text === '00' || text === '01' ? text === '01' : this.#decimal(text);
  }

  /** LONG: with an L behind, or without. */
  longLine(): number | bigint {
    return this.#decimal(this.line().replace(/L$/, ''));
  }

  floatLine(): number {
    const text = this.line();
    const special = SPECIAL_FLOATS.get(text);
    if (special !== undefined) return special;
    if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) throw this.#unexpected('a number', text);
    return Number(text);
  }

  /** A key of the memo. */
  indexLine(): number {
    const text = this.line();
    if (!/^\d{1,10}$/.test(text)) throw this.#unexpected('a memo index', text);
    return Number(text);
  }

  #decode(bytes: Uint8Array): string {
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.#reader.error('expected a string in UTF-8, got other bytes');
    }
  }

  #limited(length: number): Uint8Array {
    if (length > MAX_STRING_BYTES) {
      throw this.#reader.error(`expected strings of at most ${MAX_STRING_BYTES} bytes, got one of ${length}`);
    }
    const bytes = this.#reader.bytes(length);
    this.#cost.chargeText(length);
    return bytes;
  }

  #decimal(text: string): number | bigint {
    if (!/^[+-]?\d+$/.test(text)) throw this.#unexpected('an integer', text);
    return compactInteger(BigInt(text.replace('+', '')));
  }

  #unexpected(what: string, text: string): FormatError {
    return this.#reader.error(`expected ${what}, got ${JSON.stringify(text.slice(0, 40))}`);
  }
}

/** Integers as numbers where that is exact. */
export function compactInteger(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
