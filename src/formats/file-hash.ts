/** sha256 of files, streamed. */
import { createHash, webcrypto } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import pLimit from 'p-limit';
import { FormatError } from '../errors.ts';
import { locateFile } from './byte-reader.ts';

/** Disks gain nothing from more readers at once. */
export const READERS = 2;

/** Files up to this size are hashed whole, beside the main thread. */
const WHOLE_BYTES = 1 << 27;

/**
 * sha256 of a file's bytes, lower-case hex.
 * @param signal its reason is thrown once it is aborted
 * @throws {FormatError} if it is a folder or a device, or cannot be read.
 */
export async function hashFile(file: string, signal?: AbortSignal): Promise<string> {
  signal?.throwIfAborted();
  const hash = createHash('sha256');
  const { sizeBytes } = locateFile(file);
  try {
    if (sizeBytes <= WHOLE_BYTES)
      return Buffer.from(await webcrypto.subtle.digest('SHA-256', await readFile(file))).toString('hex');
    const source = createReadStream(file, { highWaterMark: 1 << 20 });
    await pipeline(source, hash, signal === undefined ? {} : { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw new FormatError(file, 'cannot be read', { cause });
  }
  return hash.digest('hex');
}

/** sha256 of several files, a few at a time, by path. @throws as `hashFile` */
export async function hashFiles(files: Iterable<string>, signal?: AbortSignal): Promise<Map<string, string>> {
  const limit = pLimit(READERS);
  const entries = [...new Set(files)].map((file) =>
    limit(async () => [file, await hashFile(file, signal)] as const),
  );
  return new Map(await Promise.all(entries));
}
