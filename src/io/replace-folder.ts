/**
 * Folders that are either complete or not there: built beside their place, then renamed. A folder that stands there is
 * replaced only if everything in it was written by this tool, and goes only after the new one has its name.
 */

import { EdloraError, UsageError } from '../errors.ts';
import { withFolderLock } from './folder-lock.ts';
import { onDisk } from './on-disk.ts';
import {
  chmod,
  existsSync,
  lstatSync,
  mkdir,
  readdirSync,
  readFileSync,
  rename,
  rmdir,
  writeFile,
} from './platform/disk.ts';
import * as path from './platform/paths.ts';
import { removeTree } from './remove-tree.ts';
import { forget, removeAbandoned, temporaryBeside } from './temporary-names.ts';

/** In every folder that this tool writes as a whole: the names of the files it put there. */
export const CONTENTS_NAME = '.edlora-contents.json';

/**
 * Write a folder whole or not at all.
 * @param folder its final place; the folder above it must exist
 * @param build  fills an empty folder; if it throws, nothing is left behind
 * @throws {UsageError} as `checkReplaceableFolder`, before anything is built and once more before the old one goes
 * @throws {EdloraError} if the disk is full or read-only; what stood there stays
 */
export async function writeFolderAtomically(
  folder: string,
  build: (temporary: string) => Promise<void>,
): Promise<void> {
  const target = path.resolve(folder);
  checkReplaceableFolder(folder);
  removeAbandoned(path.dirname(target));
  const temporary = temporaryBeside(target);
  try {
    await onDisk(folder, () => mkdir(temporary));
    await build(temporary);
    const contents = { tool: 'edlora', files: filesBelow(temporary) };
    await onDisk(folder, () =>
      writeFile(path.join(temporary, CONTENTS_NAME), `${JSON.stringify(contents, null, 2)}\n`),
    );
    await withFolderLock(path.dirname(target), () => moveFolderIntoPlace(temporary, folder));
  } catch (error) {
    throw named(error, temporary, folder);
  } finally {
    await removeTree(temporary);
    forget(temporary);
  }
}

/** An error that speaks of a hidden name speaks of the final one instead. */
export function named(error: unknown, temporary: string, final: string): unknown {
  if (error instanceof Error) error.message = error.message.replaceAll(temporary, final);
  return error;
}

/**
 * Give a finished folder its name; one that stood there is set aside first, and removed when the new one has the name. What
 * both hold keeps its modes. Call it under the lock of the folder above.
 * @throws {UsageError} as `checkReplaceableFolder`; {EdloraError} if the system refuses: the old folder stays
 */
export async function moveFolderIntoPlace(finished: string, folder: string): Promise<void> {
  const target = path.resolve(folder);
  checkReplaceableFolder(folder);
  if (!existsSync(target)) return onDisk(folder, () => rename(finished, target));
  await keepModes(target, finished);
  const holder = temporaryBeside(target, 'old');
  const old = path.join(holder, path.basename(target));
  try {
    await onDisk(folder, async () => {
      await mkdir(holder);
      await rename(target, old);
      await rename(finished, target);
    });
  } catch (error) {
    if (existsSync(old) && !existsSync(target)) {
      await rename(old, target).catch((failure: unknown) => {
        throw new EdloraError(`${folder}: cannot be written; what stood there is in ${old}`, {
          cause: failure,
        });
      });
    }
    await rmdir(holder).catch(() => undefined);
    forget(holder);
    throw error;
  }
  // By another name first: half of the old folder must never be taken for the whole.
  const rubbish = temporaryBeside(target);
  await rename(holder, rubbish).catch(() => undefined);
  forget(holder);
  await removeTree(rubbish);
  forget(rubbish);
}

/** Modes of a folder and of all in it that its successor has too; as far as the disk knows such things. */
async function keepModes(old: string, fresh: string): Promise<void> {
  const before = lstatSync(old);
  await chmod(fresh, before.mode & 0o777).catch(() => undefined);
  for (const entry of readdirSync(fresh, { withFileTypes: true })) {
    const [was, is] = [path.join(old, entry.name), path.join(fresh, entry.name)];
    const info = lstatSync(was, { throwIfNoEntry: false });
    if (entry.isDirectory() && info?.isDirectory()) await keepModes(was, is);
    else if (entry.isFile() && info?.isFile()) await chmod(is, info.mode & 0o777).catch(() => undefined);
  }
}

/**
 * Whether `folder` may be replaced as a whole: nothing there, an empty folder, or one in which only files lie that this tool
 * put there.
 * @throws {UsageError} naming what is in the way
 */
export function checkReplaceableFolder(folder: string): void {
  const target = path.resolve(folder);
  const info = lstatSync(target, { throwIfNoEntry: false });
  if (info === undefined) return;
  const keep = (what: string): UsageError =>
    new UsageError(`${folder}: ${what}; it is not replaced as a whole: choose another name, or move it away`);
  if (!info.isDirectory()) throw keep('expected a folder or nothing, got a file or a link');
  const names = readdirSync(target);
  if (names.length === 0) return;
  const own = contentsOf(target);
  if (own === null) throw keep('is no folder that this tool wrote');
  const strange = filesBelow(target).find((name) => name !== CONTENTS_NAME && !own.has(name));
  if (strange !== undefined) throw keep(`holds ${strange}, which this tool did not put there`);
}

/** The list of a folder that this tool wrote; `null` where there is none that can be read. */
function contentsOf(folder: string): Set<string> | null {
  try {
    const { tool, files } = JSON.parse(readFileSync(path.join(folder, CONTENTS_NAME), 'utf8')) as Record<
      string,
      unknown
    >;
    return tool === 'edlora' && Array.isArray(files) ? new Set(files.map(String)) : null;
  } catch {
    return null;
  }
}

/** Everything in a folder but folders themselves, as paths with forward slashes; an empty folder stands for itself. */
function filesBelow(folder: string, prefix = ''): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const name = prefix + entry.name;
      if (!entry.isDirectory()) return [name];
      const below = filesBelow(path.join(folder, entry.name), `${name}/`);
      return below.length === 0 ? [`${name}/`] : below;
    })
    .sort();
}
