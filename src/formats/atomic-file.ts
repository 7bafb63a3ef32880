/**
 * Files that are either complete or not there: written beside their place under a temporary name, flushed to
 * disk, then renamed. What stood there before stays untouched until that moment.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { EdloraError } from '../errors.ts';

const unfinished = new Set<string>();

/** Delete the temporary files of writes under way; for the handler of an interrupt. Never throws. */
export function removeUnfinishedFiles(): void {
  for (const file of unfinished) {
    try {
      rmSync(file, { force: true });
    } catch {
      // The process is about to end; there is nobody left to tell.
    }
  }
}

/**
 * Write a file whole or not at all.
 * @param file   its final place; the folder must exist
 * @param chunks the content in order; strings become UTF-8. If producing one throws, nothing is left behind.
 * @throws {EdloraError} if the disk is full or the folder is missing or read-only; an existing file stays
 */
export async function writeFileAtomically(
  file: string,
  chunks: Iterable<Uint8Array | string> | AsyncIterable<Uint8Array | string>,
): Promise<void> {
  const target = path.resolve(file);
  const name = `.${path.basename(target).slice(0, 100)}.${randomBytes(6).toString('hex')}.tmp`;
  const temporary = path.join(path.dirname(target), name);
  unfinished.add(temporary);
  try {
    const handle = await onDisk(file, () => open(temporary, 'wx'));
    try {
      for await (const chunk of chunks) {
        await onDisk(file, () => writeWhole(handle, typeof chunk === 'string' ? Buffer.from(chunk) : chunk));
      }
      await onDisk(file, () => handle.sync());
    } finally {
      await handle.close();
    }
    await onDisk(file, () => rename(temporary, target));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  } finally {
    unfinished.delete(temporary);
  }
}

/**
 * Make a folder, and those above it; one that stands there is fine.
 * @throws {EdloraError} in the words of `writeFileAtomically`
 */
export async function makeFolder(folder: string): Promise<void> {
  // Asked for all levels at once, the system calls a read-only place missing.
  if (!existsSync(path.dirname(folder))) await makeFolder(path.dirname(folder));
  if (!existsSync(folder)) await onDisk(folder, () => mkdir(folder));
}

/** Linux writes at most about 2 GiB in one call. */
const MAX_WRITE = 2 ** 30;

async function writeWhole(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.length - done, MAX_WRITE));
    done += bytesWritten;
  }
}

/** Run one step of writing; say in words what the operating system refused. */
async function onDisk<T>(file: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    const reason =
      code === 'ENOSPC' || code === 'EDQUOT'
        ? 'the disk is full; a file that stood there before is unchanged'
        : code === 'ENOENT'
          ? 'its folder does not exist'
          : code === 'EISDIR' || code === 'ENOTEMPTY'
            ? 'a folder of that name stands there'
            : code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
              ? 'no permission to write in its folder'
              : error instanceof Error
                ? error.message
                : String(error);
    throw new EdloraError(`${file}: cannot be written: ${reason}`, { cause: error });
  }
}
