/**
 * What a file was when it was opened, to tell later whether it is still that: a job that runs for hours must not read its
 * end from another file than its beginning. Permissions, names and links may change; content, size and times may not.
 */

import { FormatError } from '../errors.ts';
import { fstatSync, statSync } from './platform/disk.ts';
import * as path from './platform/paths.ts';

export interface FileIdentity {
  /** Absolute path. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly modifiedNs: bigint;
  /** Number of the file on its disk, and the disk's. */
  readonly inode: bigint;
  readonly device: bigint;
}

/** Of whatever lies there now, a link followed. @throws the system's own error if nothing does, or it may not be asked */
export function identify(file: string): FileIdentity {
  const absolute = path.resolve(file);
  return { path: absolute, ...partsOf(statSync(absolute, { bigint: true })) };
}

/** Of an open descriptor. */
export function identifyOpen(file: string, descriptor: number): FileIdentity {
  return { path: path.resolve(file), ...partsOf(fstatSync(descriptor, { bigint: true })) };
}

function partsOf(info: { size: bigint; mtimeNs: bigint; ino: bigint; dev: bigint }) {
  return { sizeBytes: Number(info.size), modifiedNs: info.mtimeNs, inode: info.ino, device: info.dev };
}

/** How `now` differs from `before`, in words; `null` if it does not. */
export function difference(before: FileIdentity, now: FileIdentity): string | null {
  if (before.sizeBytes !== now.sizeBytes) return `${before.sizeBytes} bytes then, ${now.sizeBytes} now`;
  if (before.inode !== now.inode || before.device !== now.device) return 'another file has taken its name';
  if (before.modifiedNs !== now.modifiedNs) {
    const at = new Date(Number(now.modifiedNs / 1_000_000n));
    return `written to at ${Number.isNaN(at.getTime()) ? 'another time' : at.toISOString()}`;
  }
  return null;
}

/** @throws {FormatError} naming the first file that is gone, or not what it was when it was opened, and what changed */
export function checkUnchanged(opened: Iterable<FileIdentity>): void {
  for (const before of opened) {
    const what = changeOf(before);
    if (what !== null) throw changedError(before.path, what);
  }
}

/** The error of a file that has changed. */
export function changedError(file: string, what: string): FormatError {
  return new FormatError(
    file,
    `expected the file as it was, got one that changed since it was opened (${what}); run again, and leave inputs alone while a job runs`,
  );
}

function changeOf(before: FileIdentity): string | null {
  let now: FileIdentity;
  try {
    now = identify(before.path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'it is gone' : `it cannot be asked: ${code}`;
  }
  return difference(before, now);
}
