/**
 * Bounds-checked reading from files and from bytes in memory. Files are opened, read and closed again each
 * time, so that a checkpoint with thousands of tensors holds no descriptor.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../errors.ts';
import { changedError, difference, type FileIdentity, identify, identifyOpen } from '../io/file-identity.ts';
import { readingReason } from '../io/on-disk.ts';
import type { TensorStorage } from './raw-tensor.ts';

/** Linux reads at most about 2 GiB in one call. */
const MAX_READ = 2 ** 30;

/** A file that exists and is no folder, as it was when it was found. */
export type SourceFile = FileIdentity;

/**
 * Find a file, its size, and what tells whether it has changed since.
 * @throws {FormatError} if nothing is there, if it is a folder or a device, or if it may not be read
 */
export function locateFile(file: string): SourceFile {
  const absolute = path.resolve(file);
  try {
    const stats = statSync(absolute);
    if (stats.isDirectory()) {
      throw new FormatError(file, 'expected a file, got a folder; name the weight file inside it');
    }
    if (!stats.isFile()) throw new FormatError(file, 'expected a regular file, got a device or a pipe');
    return identify(absolute);
  } catch (error) {
    throw asReadError(file, error);
  }
}

/** Words for what the operating system said. */
function asReadError(file: string, error: unknown): FormatError {
  if (error instanceof FormatError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const message =
    code === 'ENOENT' || code === 'ENOTDIR'
      ? 'expected a file, got nothing: no such file; check the path'
      : code === 'EACCES' || code === 'EPERM'
        ? 'expected a readable file, got "permission denied"; check its owner and mode'
        : `cannot be read: ${readingReason(error)}`;
  return new FormatError(file, message, { cause: error });
}

/**
 * Bytes `[begin, end)` of a file, in a buffer of their own (offset 0, hence aligned for any number type).
 * The file's present size is checked before anything is allocated.
 * @param source a path, or a file found before, which must still be what it was then
 * @throws {FormatError} if the file is shorter than `end`, has changed, or cannot be read
 */
export function readFileRange(
  source: string | SourceFile,
  begin: number,
  end: number,
): Uint8Array<ArrayBuffer> {
  const file = typeof source === 'string' ? source : source.path;
  let descriptor: number | undefined;
  try {
    descriptor = openSync(file, 'r');
    return readDescriptorRange(source, descriptor, begin, end);
  } catch (error) {
    throw asReadError(file, error);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/**
 * The same of a file that is open.
 * @param source its path, or the file as it was when it was found
 * @throws {FormatError} as `readFileRange`
 */
export function readDescriptorRange(
  source: string | SourceFile,
  descriptor: number,
  begin: number,
  end: number,
): Uint8Array<ArrayBuffer> {
  const file = typeof source === 'string' ? source : source.path;
  try {
    const now = identifyOpen(file, descriptor);
    const changed = typeof source === 'string' ? null : difference(source, now);
    if (changed !== null) throw changedError(file, changed);
    if (!(begin >= 0 && begin <= end && end <= now.sizeBytes)) {
      throw new FormatError(
        file,
        `expected at least ${end} bytes, got ${now.sizeBytes}; truncated, or changed since it was opened?`,
      );
    }
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(end - begin).buffer);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(descriptor, bytes, done, Math.min(bytes.length - done, MAX_READ), begin + done);
      if (count === 0) {
        throw new FormatError(file, `expected ${end} bytes, got ${begin + done}; it shrank while being read`);
      }
      done += count;
    }
    return bytes;
  } catch (error) {
    throw asReadError(file, error);
  }
}

/** A stretch of a file as a tensor's storage; read on demand. */
export function fileStorage(source: SourceFile, offset: number, sizeBytes: number): TensorStorage {
  return {
    sizeBytes,
    range: { file: source.path, offset, length: sizeBytes },
    opened: source,
    read: (begin, end) => readFileRange(source, offset + begin, offset + end),
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
