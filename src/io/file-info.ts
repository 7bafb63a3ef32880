/** What lies at a path, if anything. */

import { FormatError } from '../errors.ts';
import { existsSync, type Stats, statSync } from './platform/disk.ts';

/** Paths out of files may be anything: too long a name is that of no file. */
const NOTHING = new Set(['ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP']);

/**
 * A link is followed; `undefined`: nothing is there.
 * @throws {FormatError} if it may not be asked, or is no path at all
 */
export function infoOf(file: string): Stats | undefined {
  try {
    return statSync(file);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== undefined && NOTHING.has(code)) return undefined;
    const why = code === 'EACCES' || code === 'EPERM' ? 'permission denied' : (cause as Error).message;
    throw new FormatError(file, `cannot be asked for: ${why}; check the path and its folders`, { cause });
  }
}

/** Whether anything lies there, a link followed; what may not be asked counts as nothing. */
export function exists(file: string): boolean {
  return existsSync(file);
}
