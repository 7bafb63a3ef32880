/** What the operating system refused, in words: one sentence with the path and, where there is one, the way out. */
import { EdloraError } from '../errors.ts';

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full; a file that stood there before is unchanged',
  EDQUOT: 'the disk is full; a file that stood there before is unchanged',
  ENOENT: 'its folder does not exist',
  ENOTDIR: 'a file stands where its folder should be',
  EISDIR: 'a folder of that name stands there',
  ENOTEMPTY: 'a folder of that name stands there',
  EEXIST: 'something of that name stands there',
  EACCES: 'no permission to write in its folder',
  EPERM: 'no permission to write in its folder',
  EROFS: 'no permission to write in its folder',
  ENAMETOOLONG: 'the name is too long for this disk',
  EMFILE: 'too many files are open at once',
  ENFILE: 'too many files are open at once',
  ELOOP: 'too many links in a row',
  EIO: 'the disk reports an error',
};

/** The same where it is not known to be about writing. */
const ANYWHERE: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or folder; check the path',
  ENOTDIR: 'a file stands where a folder is expected; check the path',
  EISDIR: 'expected a file, got a folder',
  EACCES: 'permission denied; check its owner and mode',
  EPERM: 'permission denied; check its owner and mode',
  EROFS: 'the disk is read-only; choose another place',
  EMFILE: 'too many files are open at once; raise the limit (ulimit -n)',
  ENFILE: 'too many files are open at once; close other programs',
  EXDEV: 'lies on another disk; choose a place on the same one',
  EBUSY: 'another program uses it; close that, or choose another place',
  ETXTBSY: 'another program uses it; close that, or choose another place',
  EFBIG: 'larger than this disk, or the limit of this session (ulimit -f), allows',
  ESTALE: 'the share it lies on has changed; mount it again',
  ENOMEM: 'the system has no memory left for it',
};

/** Codes of calls that were wrong in themselves, whatever file they were about: defects. */
const OUR_OWN = new Set(['EBADF', 'EFAULT']);

/**
 * An error of the operating system that nothing put into words before: one sentence with the path and the way out.
 * @returns `null` for every other error
 */
export function systemErrorInWords(error: unknown): string | null {
  if (error instanceof EdloraError || !(error instanceof Error)) return null;
  const { code, errno, path, syscall, dest } = error as NodeJS.ErrnoException & { dest?: string };
  if (code === undefined || syscall === undefined || typeof errno !== 'number' || OUR_OWN.has(code))
    return null;
  const reason = ANYWHERE[code] ?? REASONS[code] ?? `the system refuses to ${syscall} it (${code})`;
  const where = path === undefined ? `a file (${syscall})` : dest === undefined ? path : `${path} → ${dest}`;
  return `${where}: ${reason}`;
}

/** Why something cannot be read: in words where there are some, else as the system says it. */
export function readingReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return ANYWHERE[code] ?? REASONS[code] ?? (error instanceof Error ? error.message : String(error));
}

/**
 * Run one step of writing.
 * @throws {EdloraError} that says why, with the system's own error as its cause
 */
export async function onDisk<T>(file: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    if (error instanceof EdloraError) throw error;
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const reason = REASONS[code] ?? readingReason(error);
    throw new EdloraError(`${file}: cannot be written: ${reason}`, { cause: error });
  }
}
