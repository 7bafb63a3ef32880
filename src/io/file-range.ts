/**
 * Ranges of a named source: a file that is found, then opened, read and closed again each time, so that a checkpoint with
 * thousands of tensors holds no descriptor; or kept open, where all must come from one file.
 */
import { FormatError } from '../errors.ts';
import { changedError, difference, type FileIdentity, identify, identifyOpen } from './file-identity.ts';
import { readingReason } from './on-disk.ts';
import { closeSync, openSync, readLater, readSync, statSync } from './platform/disk.ts';
import { freshBytes } from './platform/machine.ts';
import * as path from './platform/paths.ts';

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
 * @param into   as many bytes to fill and return in place of a buffer of their own
 * @throws {FormatError} if the file is shorter than `end`, has changed, or cannot be read
 */
export function readFileRange(
  source: string | SourceFile,
  begin: number,
  end: number,
  into?: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  const file = typeof source === 'string' ? source : source.path;
  let descriptor: number | undefined;
  try {
    descriptor = openSync(file, 'r');
    return readDescriptorRange(source, descriptor, begin, end, into);
  } catch (error) {
    throw asReadError(file, error);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/** A file kept open, whatever takes its name meanwhile. */
export class OpenFile {
  /** Absolute. */
  readonly path: string;
  readonly #descriptor: number;
  #open = true;
  /** Reads under way, which need the descriptor. */
  #reading = 0;

  /** @throws {FormatError} if it cannot be opened */
  constructor(file: string) {
    this.path = path.resolve(file);
    try {
      this.#descriptor = openSync(this.path, 'r');
    } catch (error) {
      throw asReadError(file, error);
    }
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** What the open file is now. */
  identify(): FileIdentity {
    return identifyOpen(this.path, this.#descriptor);
  }

  /**
   * Bytes `[begin, end)`.
   * @param source the file as it was when it was found
   * @throws {FormatError} as `readFileRange`, and once it is closed
   */
  read(
    source: SourceFile,
    begin: number,
    end: number,
    into?: Uint8Array<ArrayBuffer>,
  ): Uint8Array<ArrayBuffer> {
    this.#checkOpen();
    return readDescriptorRange(source, this.#descriptor, begin, end, into);
  }

  /** The same while the caller goes on; a file that is closed meanwhile is read to the end. */
  async readLater(
    source: SourceFile,
    begin: number,
    end: number,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    this.#checkOpen();
    this.#reading++;
    try {
      return await readDescriptorRangeLater(source, this.#descriptor, begin, end, into);
    } finally {
      this.#reading--;
      this.#closeIfUnused();
    }
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#closeIfUnused();
  }

  #checkOpen(): void {
    if (!this.#open) throw new FormatError(this.path, 'internal: read after it was closed');
  }

  #closeIfUnused(): void {
    if (!this.#open && this.#reading === 0) closeSync(this.#descriptor);
  }
}

/** The same of a file that is open. */
function readDescriptorRange(
  source: string | SourceFile,
  descriptor: number,
  begin: number,
  end: number,
  into?: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  const file = typeof source === 'string' ? source : source.path;
  try {
    const bytes = checkedRange(source, descriptor, begin, end, into);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(descriptor, bytes, done, Math.min(bytes.length - done, MAX_READ), begin + done);
      done += checkedCount(file, count, begin + done, end);
    }
    return bytes;
  } catch (error) {
    throw asReadError(file, error);
  }
}

/** The same while the caller goes on. */
async function readDescriptorRangeLater(
  source: SourceFile,
  descriptor: number,
  begin: number,
  end: number,
  into?: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const bytes = checkedRange(source, descriptor, begin, end, into);
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, MAX_READ);
      const count = await readLater(descriptor, bytes, done, length, begin + done);
      done += checkedCount(source.path, count, begin + done, end);
    }
    return bytes;
  } catch (error) {
    throw asReadError(source.path, error);
  }
}

/** Memory for bytes that the file has. */
function checkedRange(
  source: string | SourceFile,
  descriptor: number,
  begin: number,
  end: number,
  into: Uint8Array<ArrayBuffer> | undefined,
): Uint8Array<ArrayBuffer> {
  const file = typeof source === 'string' ? source : source.path;
  const now = identifyOpen(file, descriptor);
  const changed = typeof source === 'string' ? null : difference(source, now);
  if (changed !== null) throw changedError(file, changed);
  if (!(begin >= 0 && begin <= end && end <= now.sizeBytes)) {
    throw new FormatError(
      file,
      `expected at least ${end} bytes, got ${now.sizeBytes}; truncated, or changed since it was opened?`,
    );
  }
  return into?.length === end - begin ? into : freshBytes(end - begin);
}

/** How many bytes a call has read. */
function checkedCount(file: string, count: number, from: number, end: number): number {
  if (count > 0) return count;
  throw new FormatError(file, `expected ${end} bytes, got ${from}; it shrank while being read`);
}
