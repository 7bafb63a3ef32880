/** Files that cannot be used but may still be of worth to someone: renamed, never deleted, and never over one another. */
import { linkSync, lstatSync, renameSync, unlinkSync } from './platform/disk.ts';

/** Names tried; who has more damaged files of one name has another problem. */
const MAX_TRIES = 1000;

/**
 * Rename a file or folder to `<name>.damaged`, or with a number where that is taken.
 * @param name default: its own
 * @returns where it is now; `null` if it is gone, or if the system refuses
 */
export function setAside(file: string, name = file): string | null {
  for (let n = 1; n <= MAX_TRIES; n++) {
    const target = `${name}.damaged${n === 1 ? '' : `-${n}`}`;
    if (lstatSync(target, { throwIfNoEntry: false }) !== undefined) continue;
    try {
      moveUnlessTaken(file, target);
      return target;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return null;
    }
  }
  return null;
}

/**
 * Rename a file where its new name is free.
 * @throws the system's own error, EEXIST if the name is taken
 */
export function moveUnlessTaken(file: string, target: string): void {
  try {
    linkSync(file, target);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' || code === 'ENOENT') throw error;
    // A folder, or a disk without hard links.
    if (lstatSync(target, { throwIfNoEntry: false }) !== undefined) {
      throw Object.assign(new Error(`${target} exists`), { code: 'EEXIST' });
    }
    renameSync(file, target);
    return;
  }
  unlinkSync(file);
}
