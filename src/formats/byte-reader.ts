/** Tensors' storages in files and in memory, and bounds-checked reading of either, field by field. */
import { FormatError } from '../errors.ts';
import { readFileRange, type SourceFile } from '../io/file-range.ts';
import type { TensorStorage } from './tensor-storage.ts';

/** A stretch of a file as a tensor's storage; read on demand. */
export function fileStorage(source: SourceFile, offset: number, sizeBytes: number): TensorStorage {
  return {
    sizeBytes,
    range: { file: source.path, offset, length: sizeBytes },
    opened: source,
    read: (begin, end, into) => readFileRange(source, offset + begin, offset + end, into),
  };
}

/** Bytes in memory as a tensor's storage. `read` returns views, not copies. */
export function memoryStorage(bytes: Uint8Array): TensorStorage {
  return { sizeBytes: bytes.byteLength, range: null, read: (begin, end) => bytes.subarray(begin, end) };
}

/** How much a cursor fetches at a time. */
const WINDOW_BYTES = 1 << 16;

/**
 * A cursor over bytes that are fetched in windows. Every read is checked against the end first, so that a
 * length field that lies costs nothing.
 */
export class ByteReader {
  /** Named in errors. */
  readonly file: string;
  /** What is being read, for errors: `header`, `data.pkl` … */
  readonly part: string;
  /** Where the readable part ends, in the same coordinates as `position`. */
  readonly end: number;
  readonly #fetch: (begin: number, end: number) => Uint8Array;
  #position: number;
  #window: Uint8Array = new Uint8Array(0);
  #windowStart = 0;

  constructor(
    file: string,
    part: string,
    begin: number,
    end: number,
    fetch: (begin: number, end: number) => Uint8Array,
  ) {
    this.file = file;
    this.part = part;
    this.end = end;
    this.#position = begin;
    this.#fetch = fetch;
  }

  /** A cursor over bytes in memory. */
  static ofBytes(file: string, part: string, bytes: Uint8Array): ByteReader {
    return new ByteReader(file, part, 0, bytes.length, (begin, end) => bytes.subarray(begin, end));
  }

  /** A cursor over `[begin, end)` of a file; errors call it `file`. */
  static ofFile(file: string, source: SourceFile, part: string, begin: number, end: number): ByteReader {
    return new ByteReader(file, part, begin, end, (from, to) => readFileRange(source, from, to));
  }

  get position(): number {
    return this.#position;
  }

  get remaining(): number {
    return this.end - this.#position;
  }

  /** An error that names the file, the part and the place. */
  error(message: string): FormatError {
    return new FormatError(this.file, `${this.part}, byte ${this.#position}: ${message}`);
  }

  /** Make the next `length` bytes present in the window, step over them, and say where in it they start. */
  #take(length: number): number {
    if (!(length <= this.remaining)) {
      throw this.error(`expected ${length} more bytes, got ${this.remaining}; truncated file?`);
    }
    let from = this.#position - this.#windowStart;
    if (from + length > this.#window.length) {
      const windowEnd = Math.min(this.end, this.#position + Math.max(length, WINDOW_BYTES));
      this.#window = this.#fetch(this.#position, windowEnd);
      this.#windowStart = this.#position;
      from = 0;
    }
    this.#position += length;
    return from;
  }

  /**
   * The next `length` bytes; a view that stays valid.
   * @throws {FormatError} if fewer remain
   */
  bytes(length: number): Uint8Array {
    const from = this.#take(length);
    return this.#window.subarray(from, from + length);
  }

  /** Step over `length` bytes without fetching them. @throws {FormatError} if fewer remain */
  skip(length: number): void {
    if (!(length <= this.remaining)) {
      throw this.error(`expected ${length} more bytes, got ${this.remaining}; truncated file?`);
    }
    this.#position += length;
  }

  #view(length: number): DataView {
    const bytes = this.bytes(length);
    return new DataView(bytes.buffer, bytes.byteOffset, length);
  }

  u8(): number {
    const from = this.#take(1); // may replace the window, hence first
    return this.#window[from]!;
  }

  u16(): number {
    return this.#view(2).getUint16(0, true);
  }

  u32(): number {
    return this.#view(4).getUint32(0, true);
  }

  /** As PNG stores it. */
  u32BigEndian(): number {
    return this.#view(4).getUint32(0, false);
  }

  i32(): number {
    return this.#view(4).getInt32(0, true);
  }

  u64(): bigint {
    return this.#view(8).getBigUint64(0, true);
  }

  i64(): bigint {
    return this.#view(8).getBigInt64(0, true);
  }

  /** A float64 in big-endian order, as pickles store it. */
  f64BigEndian(): number {
    return this.#view(8).getFloat64(0, false);
  }

  /**
   * Bytes up to the next line feed, which is consumed and not returned.
   * @throws {FormatError} if there is none within `limit` bytes
   */
  line(limit: number): Uint8Array {
    const bytes: number[] = [];
    for (let byte = this.u8(); byte !== 0x0a; byte = this.u8()) {
      if (bytes.length === limit)
        throw this.error(`expected a line of at most ${limit} bytes, got a longer one`);
      bytes.push(byte);
    }
    return Uint8Array.from(bytes);
  }
}
