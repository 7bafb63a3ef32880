/** Several results that belong together: all are made before the first one takes its place. */

import { withFolderLock } from './folder-lock.ts';
import { onDisk } from './on-disk.ts';
import { existsSync, mkdir, readdirSync, rmdir, statSync } from './platform/disk.ts';
import * as path from './platform/paths.ts';
import { removeTree } from './remove-tree.ts';
import { makeFolder, type ReadyFile, readyForPlace } from './replace-file.ts';
import { moveFolderIntoPlace, named } from './replace-folder.ts';
import { forget, removeAbandoned, temporaryBeside } from './temporary-names.ts';

/**
 * Fill a hidden folder inside `folder`, then give each file and folder in it its name there, in the order of their names.
 * What stands in `folder` under other names is not touched.
 * @param folder made if it is missing, and removed again if that was in vain
 * @throws {EdloraError | UsageError} as `readyForPlace` and `moveFolderIntoPlace`; if `build` throws, everything stays as it was
 */
export async function stagedInto(folder: string, build: (staging: string) => Promise<void>): Promise<void> {
  const target = path.resolve(folder);
  const fresh = !existsSync(target);
  await makeFolder(target);
  removeAbandoned(target);
  const staging = temporaryBeside(path.join(target, 'staging'));
  try {
    await onDisk(folder, () => mkdir(staging));
    await build(staging);
    const ready: ReadyFile[] = [];
    try {
      for (const name of readdirSync(staging).sort()) {
        const [from, to] = [path.join(staging, name), path.join(target, name)];
        ready.push(
          statSync(from).isDirectory()
            ? { finish: () => moveFolderIntoPlace(from, to), cancel: async () => undefined }
            : await readyForPlace(from, to),
        );
      }
      // Two runs at once: the results of one of them, all together.
      await withFolderLock(target, async () => {
        for (const { finish } of ready) await finish();
      });
    } finally {
      for (const { cancel } of ready) await cancel();
    }
  } catch (error) {
    throw named(error, staging, target);
  } finally {
    await removeTree(staging);
    forget(staging);
    // Only an empty folder goes.
    if (fresh) await rmdir(target).catch(() => undefined);
  }
}
