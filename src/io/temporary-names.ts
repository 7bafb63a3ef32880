/**
 * Names of what is being written: beside its final place, hidden, and marked with the process that writes. What a killed
 * process left is removed by the next one that writes into the same folder; what a living one writes is never touched.
 */

import { existsSync, linkSync, readdirSync, readFileSync, renameSync, rmSync } from './platform/disk.ts';
import { randomHex } from './platform/machine.ts';
import * as path from './platform/paths.ts';
import { OWNER_PATTERN, ownerIsAlive, ownerMark } from './platform/process-owner.ts';

/** `tmp`: on its way to its name. `old`: holds, under its own name, a folder whose successor is about to take that name. */
export type TemporaryKind = 'tmp' | 'old';

const NAME = new RegExp(`^\\.(.{1,100})\\.(${OWNER_PATTERN})-[0-9a-f]{12}\\.(tmp|old)$`, 's');

/** What this process is writing now. */
const unfinished = new Set<string>();

/** Folders that this process has set aside: the holder of each, by where it stood. */
const aside = new Map<string, string>();

/** A fresh path beside `target`; remembered until `forget`. */
export function temporaryBeside(target: string, kind: TemporaryKind = 'tmp'): string {
  const { dir, base } = path.parse(target);
  const random = randomHex(6);
  // Names have at most 255 bytes on most disks; a letter takes up to four.
  const file = path.join(dir, `.${[...base].slice(0, 40).join('')}.${ownerMark()}-${random}.${kind}`);
  if (kind === 'tmp') unfinished.add(file);
  else aside.set(file, target);
  return file;
}

/** The temporary file or folder has its final name, or is gone. */
export function forget(temporary: string): void {
  unfinished.delete(temporary);
  aside.delete(temporary);
}

/**
 * Delete what this process is writing now, and put back what it has set aside, for the handler of an interrupt. Never throws.
 * @returns what could not be deleted or put back
 */
export function removeUnfinishedFiles(): string[] {
  const left: string[] = [];
  for (const [holder, target] of aside) {
    try {
      giveBack(holder, path.dirname(target));
      rmSync(holder, { force: true, recursive: true });
    } catch {
      left.push(holder);
    }
  }
  for (const file of unfinished) {
    try {
      rmSync(file, { force: true, recursive: true });
    } catch {
      left.push(file);
    }
  }
  return left;
}

const swept = new Set<string>();

/**
 * Remove what processes that are gone left in a folder, once per process and folder. A folder that was set aside and whose
 * successor never took its name gets it back. What cannot be read or removed stays.
 */
export function removeAbandoned(folder: string): void {
  if (swept.has(folder)) return;
  swept.add(folder);
  breakDeadLock(folder);
  for (const name of namesIn(folder)) {
    const parts = NAME.exec(name);
    if (parts === null || ownerIsAlive(parts[2]!)) continue;
    const found = path.join(folder, name);
    try {
      if (parts.at(-1) === 'old') giveBack(found, folder);
      // By another name first: half of an old folder must never be taken for the whole.
      const rubbish = temporaryBeside(path.join(folder, 'removed'));
      renameSync(found, rubbish);
      rmSync(rubbish, { force: true, recursive: true });
      forget(rubbish);
    } catch {
      // Another process was first, or it is not ours to remove.
    }
  }
}

/** The file that folder-lock.ts holds a folder with: the owner's mark and a word of its own. */
export const LOCK_NAME = '.edlora-lock';

export function lockHolder(folder: string): string | null {
  try {
    return readFileSync(path.join(folder, LOCK_NAME), 'utf8');
  } catch {
    return null;
  }
}

/**
 * Take the lock of a dead process away; if somebody else takes it over meanwhile, that one gets it back.
 * @returns whether there was one
 */
export function breakDeadLock(folder: string): boolean {
  const holder = lockHolder(folder);
  if (holder === null || ownerIsAlive(holder.split(' ')[0]!)) return false;
  const lock = path.join(folder, LOCK_NAME);
  const taken = temporaryBeside(lock);
  try {
    renameSync(lock, taken);
    if (readFileSync(taken, 'utf8') !== holder) linkSync(taken, lock);
    rmSync(taken, { force: true });
  } catch {
    // Another process was first.
  }
  forget(taken);
  return true;
}

function giveBack(aside: string, folder: string): void {
  for (const name of namesIn(aside)) {
    if (!existsSync(path.join(folder, name))) renameSync(path.join(aside, name), path.join(folder, name));
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
