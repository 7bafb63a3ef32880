/**
 * Folders that are either complete or not there: built beside their place, then renamed. A folder that stands there is
 * replaced only if everything in it was written by this tool, and goes only after the new one has its name.
 */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { EdloraError, UsageError } from '../errors.ts';
import { onDisk } from './on-disk.ts';
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
    await moveFolderIntoPlace(temporary, folder);
  } finally {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    forget(temporary);
  }
}

/**
 * Give a finished folder its name; one that stood there is set aside first, and removed when the new one has the name.
 * @throws {UsageError} as `checkReplaceableFolder`; {EdloraError} if the system refuses: the old folder stays
 */
export async function moveFolderIntoPlace(finished: string, folder: string): Promise<void> {
  const target = path.resolve(folder);
  checkReplaceableFolder(folder);
  if (!existsSync(target)) return onDisk(folder, () => rename(finished, target));
  const aside = temporaryBeside(target, 'old');
  const old = path.join(aside, path.basename(target));
  await onDisk(folder, async () => {
    await mkdir(aside);
    try {
      await rename(target, old);
      try {
        await rename(finished, target);
      } catch (error) {
        await rename(old, target);
        throw error;
      }
    } catch (error) {
      await rmdir(aside);
      throw error;
    }
  });
  // The new one stands: what remains of the old one is the next run's to remove.
  await rm(aside, { recursive: true, force: true }).catch(() => undefined);
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

/** @throws {EdloraError} unless the folder above `target` is there: said before the work rather than after it */
export function checkFolderAbove(target: string): void {
  const above = path.dirname(path.resolve(target));
  if (!lstatSync(above, { throwIfNoEntry: false }))
    throw new EdloraError(`${target}: its folder does not exist`);
}
