/**
 * Files that are either complete or not there: written beside their place under a temporary name, flushed to disk, then
 * renamed. What stood there before stays untouched until that moment; its mode and a link to it stay for good.
 */

import { EdloraError } from '../errors.ts';
import { utf8Bytes } from './bytes.ts';
import { onDisk } from './on-disk.ts';
import {
  copyFile,
  existsSync,
  type FileHandle,
  link,
  lstatSync,
  mkdir,
  open,
  readlinkSync,
  realpathSync,
  rename,
  rm,
  type Stats,
  statSync,
} from './platform/disk.ts';
import { isSuperuser } from './platform/machine.ts';
import * as path from './platform/paths.ts';
import { forget, removeAbandoned, temporaryBeside } from './temporary-names.ts';

export type Content = Iterable<Uint8Array | string> | AsyncIterable<Uint8Array | string>;

/**
 * Write a file whole or not at all.
 * @param file    its final place; the folder must exist. Of a link, what it points to is replaced.
 * @param content in order; strings become UTF-8. If producing a piece throws, nothing is left behind.
 * @throws {EdloraError} if the disk is full, the folder missing or read-only, or something else than a file stands there;
 *   what stood there stays
 */
export async function writeFileAtomically(file: string, content: Content): Promise<void> {
  const { target, before } = placeOf(file);
  await withTemporary(file, target, content, before, (temporary) => rename(temporary, target));
}

/**
 * Write a file under the first name that nobody has: two processes that write into one folder never get the same one.
 * @param nameAt the n-th name to try, n = 0, 1, …
 * @returns the path that it got, and its n
 * @throws {EdloraError} as `writeFileAtomically`
 */
export async function writeUnderFreeName(
  nameAt: (n: number) => string,
  content: Content,
  start = 0,
): Promise<{ file: string; n: number }> {
  let n = start;
  const first = path.resolve(nameAt(n));
  await withTemporary(first, first, content, null, async (temporary) => {
    while (!(await claim(temporary, path.resolve(nameAt(n))))) n++;
  });
  return { file: path.resolve(nameAt(n)), n };
}

/** Give the finished file its name unless that is taken. */
async function claim(temporary: string, file: string): Promise<boolean> {
  try {
    await link(temporary, file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EEXIST') return false;
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS') throw error;
    // A disk without hard links: hold the name, empty for a moment, then put the file there.
    const handle = await open(file, 'wx').catch((failure: NodeJS.ErrnoException) => {
      if (failure.code === 'EEXIST') return null;
      throw failure;
    });
    if (handle === null) return false;
    await handle.close();
    await rename(temporary, file);
  }
  return true;
}

/** A finished file on its way to its name. */
export interface ReadyFile {
  /** The last step: a rename. */
  finish(): Promise<void>;
  /** Leave nothing of it. */
  cancel(): Promise<void>;
}

/**
 * Make ready to put a finished file in place of `file`, as `writeFileAtomically` does at its end: whatever can fail for lack
 * of room or rights is done, also where a link leads to another disk.
 * @throws {EdloraError} as `writeFileAtomically`
 */
export async function readyForPlace(finished: string, file: string): Promise<ReadyFile> {
  const { target, before } = placeOf(file);
  const elsewhere = path.dirname(target) !== path.dirname(path.resolve(file));
  if (elsewhere) removeAbandoned(path.dirname(target));
  const source = elsewhere ? temporaryBeside(target) : finished;
  const ready: ReadyFile = {
    finish: async () => {
      await onDisk(file, () => rename(source, target));
      forget(source);
    },
    cancel: async () => {
      await rm(source, { force: true }).catch(() => undefined);
      forget(source);
    },
  };
  try {
    if (elsewhere) await onDisk(file, () => copyFile(finished, source));
    if (before !== null) await onDisk(file, () => becomeLike(source, before));
    return ready;
  } catch (error) {
    await ready.cancel();
    throw error;
  }
}

/** Give a finished file the mode and owner of the one that it replaces. */
async function becomeLike(file: string, before: Stats): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await keepMode(handle, before);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Make a folder, and those above it; one that stands there is fine.
 * @throws {EdloraError} in the words of `writeFileAtomically`
 */
export async function makeFolder(folder: string): Promise<void> {
  const target = path.resolve(folder);
  // Asked for all levels at once, the system calls a read-only place missing.
  if (!existsSync(path.dirname(target))) await makeFolder(path.dirname(target));
  await onDisk(target, () =>
    mkdir(target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST' || !statSync(target).isDirectory()) throw error;
    }),
  );
}

/** Where a file will really lie, and what lies there now. @throws {EdloraError} if that is no ordinary file */
export function placeOf(file: string): { target: string; before: Stats | null } {
  const target = behindLinks(path.resolve(file));
  const before = statSync(target, { throwIfNoEntry: false }) ?? null;
  if (before?.isDirectory())
    throw new EdloraError(`${file}: cannot be written: a folder of that name stands there`);
  if (before !== null && !before.isFile()) {
    throw new EdloraError(`${file}: expected an ordinary file to replace, got a device, a pipe or a socket`);
  }
  return { target, before };
}

/** More links in a row than any system follows. */
const MAX_LINKS = 40;

/** What a link, or a chain of them, points to, be it there or not. */
function behindLinks(file: string): string {
  let at = file;
  for (let i = 0; i < MAX_LINKS; i++) {
    if (!lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink()) return at;
    const real = existsSync(at) ? realpathSync(at) : null;
    if (real !== null) return real;
    at = path.resolve(path.dirname(at), readlinkSync(at));
  }
  throw new EdloraError(`${file}: cannot be written: too many links in a row`);
}

async function withTemporary(
  file: string,
  target: string,
  content: Content,
  before: Stats | null,
  finish: (temporary: string) => Promise<unknown>,
): Promise<void> {
  removeAbandoned(path.dirname(target));
  const temporary = temporaryBeside(target);
  try {
    // Never more open than what it replaces, not even while it is written.
    const handle = await onDisk(file, () =>
      open(temporary, 'wx', before === null ? 0o666 : before.mode & 0o777),
    );
    try {
      for await (const chunk of content) {
        await onDisk(file, () => writeWhole(handle, typeof chunk === 'string' ? utf8Bytes(chunk) : chunk));
      }
      if (before !== null) await keepMode(handle, before);
      await onDisk(file, () => handle.sync());
    } finally {
      await handle.close();
    }
    await onDisk(file, () => finish(temporary));
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined);
    forget(temporary);
  }
}

/** Permissions, and for the superuser the owner, of the file that is replaced; as far as the disk knows such things. */
async function keepMode(handle: FileHandle, { mode, uid, gid }: Stats): Promise<void> {
  if (isSuperuser()) await handle.chown(uid, gid).catch(() => undefined);
  await handle.chmod(mode & 0o777).catch(() => undefined);
}

/**
 * Bytes of one call. Linux keeps what is written in pages as large as the call, and large ones are dear where a virtual machine gives
 * free memory back to its host: a GB takes 1.2 to 3 s of the processor in calls of 1 to 16 MB, and 0.3 in these.
 */
const WRITE_BYTES = 2 ** 19;

async function writeWhole(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.length - done, WRITE_BYTES));
    done += bytesWritten;
  }
}
