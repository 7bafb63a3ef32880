/**
 * One writer at a time for what must change together: a file in the folder names who holds it. One whose owner is gone is
 * taken over; nothing waits for a dead process.
 */

import { EdloraError } from '../errors.ts';
import { onDisk } from './on-disk.ts';
import { link, rm, writeFile } from './platform/disk.ts';
import { pause } from './platform/machine.ts';
import * as path from './platform/paths.ts';
import { ownerMark } from './platform/process-owner.ts';
import { breakDeadLock, forget, LOCK_NAME, lockHolder, temporaryBeside } from './temporary-names.ts';

/** Holders rename finished files and nothing else, which takes moments. */
const PATIENCE_MS = 30_000;
const RETRY_MS = 20;

/**
 * Run a step that no other run of this program may be in the midst of in the same folder.
 * @throws {EdloraError} if another one holds the folder for half a minute
 */
export async function withFolderLock<T>(folder: string, step: () => Promise<T>): Promise<T> {
  const lock = path.join(folder, LOCK_NAME);
  const own = temporaryBeside(lock);
  const mark = `${ownerMark()} ${path.basename(own)}`;
  try {
    await onDisk(folder, () => writeFile(own, mark, { flag: 'wx' }));
    await acquire(folder, lock, own);
    try {
      return await step();
    } finally {
      if (lockHolder(folder) === mark) await rm(lock, { force: true }).catch(() => undefined);
    }
  } finally {
    await rm(own, { force: true }).catch(() => undefined);
    forget(own);
  }
}

async function acquire(folder: string, lock: string, own: string): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const code = await link(own, lock).then(
      () => null,
      (error: NodeJS.ErrnoException) => error.code ?? '',
    );
    if (code === null) return;
    // A disk without hard links: runs at once are not kept apart there, only files are whole.
    if (code !== 'EEXIST') return;
    if (breakDeadLock(folder)) continue;
    if (performance.now() > end) {
      throw new EdloraError(`${folder}: another run is writing there; wait for it, or choose another folder`);
    }
    await pause(RETRY_MS);
  }
}
