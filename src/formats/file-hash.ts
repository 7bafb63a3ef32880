/** sha256 of files, streamed. */
import pLimit from 'p-limit';
import { FormatError } from '../errors.ts';
import { locateFile } from '../io/file-range.ts';
import { sha256OfFile } from '../io/platform/sha256.ts';

/** Disks gain nothing from more readers at once. */
export const READERS = 2;

/**
 * sha256 of a file's bytes, lower-case hex.
 * @param signal its reason is thrown once it is aborted
 * @throws {FormatError} if it is a folder or a device, or cannot be read.
 */
export async function hashFile(file: string, signal?: AbortSignal): Promise<string> {
  signal?.throwIfAborted();
  const { sizeBytes } = locateFile(file);
  try {
    return await sha256OfFile(file, sizeBytes, signal);
  } catch (cause) {
    signal?.throwIfAborted();
    throw new FormatError(file, 'cannot be read', { cause });
  }
}

/** sha256 of several files, a few at a time, by path. @throws as `hashFile` */
export async function hashFiles(files: Iterable<string>, signal?: AbortSignal): Promise<Map<string, string>> {
  const limit = pLimit(READERS);
  const entries = [...new Set(files)].map((file) =>
    limit(async () => [file, await hashFile(file, signal)] as const),
  );
  return new Map(await Promise.all(entries));
}
