/** Copies of a model's parts: links followed, no blocks duplicated where the disk can share them, writable by their owner. */

import { onDisk } from './on-disk.ts';
import { chmod, constants, cp, stat } from './platform/disk.ts';
import { makeWritable } from './remove-tree.ts';

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
  await onDisk(to, async () => {
    await cp(from, to, { recursive: true, dereference: true, mode: constants.COPYFILE_FICLONE, ...filter });
    // Models in shared stores are often read-only; the copy is written into.
    if ((await stat(to)).isDirectory()) {
      await chmod(to, 0o700 | (await stat(to)).mode);
      await makeWritable(to);
    }
  });
}
