/** Copies of a model's parts: links followed, no blocks duplicated where the disk can share them. */
import { constants } from 'node:fs';
import { cp } from 'node:fs/promises';
import { onDisk } from './on-disk.ts';

/**
 * Copy a file, or a folder with all that is in it.
 * @param wanted whether a file or folder, by its path, is copied; default: everything
 * @throws {EdloraError} if the disk is full or read-only, or a part cannot be read
 */
export async function copyTree(
  from: string,
  to: string,
  wanted?: (source: string) => boolean,
): Promise<void> {
  const filter = wanted === undefined ? {} : { filter: wanted };
  await onDisk(to, () =>
    cp(from, to, { recursive: true, dereference: true, mode: constants.COPYFILE_FICLONE, ...filter }),
  );
}
