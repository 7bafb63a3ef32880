/**
 * What a pickle may cost. An opcode of two bytes can copy, compare or hash a value of megabytes that is in the memo,
 * so operations alone bound nothing: each is charged with about the bytes that it makes or touches, and the sum is
 * held against the bytes read so far.
 */
import type { FormatError } from '../errors.ts';
import type { ByteReader } from './byte-reader.ts';
import { isPickleObject, type PickleValue } from './pickle-value.ts';

/** Every pickle may cost this much: 64 MiB. */
const FREE_BYTES = 1 << 26;

/** A tensor's objects take some 15 times the bytes that describe it. */
const BYTES_PER_BYTE = 32;

/** Longer strings describe no tensor: their bytes allow for themselves and nothing else. */
const DESCRIBING_CHARACTERS = 256;

/** Charges in bytes. Rough: what V8 takes for such a value. */
export const COST = { operation: 24, memo: 40, container: 64, dict: 200, item: 8, entry: 48 } as const;

/** The account of one pickle. */
export class PickleCost {
  readonly #reader: ByteReader;
  readonly #start: number;
  readonly #fileBytes: number;
  #spent = 0;

  /** @param fileBytes size of the file: a deflated pickle may not cost more than the file that it comes from allows */
  constructor(reader: ByteReader, fileBytes: number) {
    this.#reader = reader;
    this.#start = reader.position;
    this.#fileBytes = fileBytes;
  }

  /** @throws {FormatError} with both numbers, once the sum is beyond what the bytes read so far allow */
  charge(bytes: number): void {
    this.#spent += bytes;
    if (this.#spent > FREE_BYTES) this.#check();
  }

  /** A string or bytes of the pickle. */
  chargeText(bytes: number): void {
    this.charge(bytes <= DESCRIBING_CHARACTERS ? bytes : bytes * BYTES_PER_BYTE);
  }

  #check(): void {
    const read = Math.min(this.#reader.position - this.#start, this.#fileBytes);
    const allowed = FREE_BYTES + BYTES_PER_BYTE * read;
    if (this.#spent <= allowed) return;
    throw this.#tooMuch(read, allowed);
  }

  #tooMuch(read: number, allowed: number): FormatError {
    return this.#reader.error(
      `expected ${read} bytes of pickle to describe at most ${allowed} bytes of memory and work, got ${this.#spent}; ` +
        'refused: no tensors need that',
    );
  }
}

/** Bytes that a step touches when it copies or hashes a value: its own extent, not that of what it holds. */
export function extentOf(value: PickleValue): number {
  if (typeof value === 'string' || value instanceof Uint8Array) return value.length;
  if (Array.isArray(value)) return value.length * COST.item;
  if (value instanceof Map) return value.size * COST.item;
  if (!isPickleObject(value)) return 0;
  if ('items' in value && Array.isArray(value.items)) return value.items.length * COST.item;
  return 'sizes' in value && Array.isArray(value.sizes) ? value.sizes.length * COST.item : 0;
}
