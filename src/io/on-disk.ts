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

/** What a reading or listing system call refused. */
const READING: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or folder; check the path',
  ENOTDIR: 'a file stands where a folder is expected; check the path',
  EISDIR: 'expected a file, got a folder',
  EACCES: 'permission denied; check its owner and mode',
  EPERM: 'permission denied; check its owner and mode',
  EROFS: 'the disk is read-only; choose another place',
};

/**
 * An error of the file system that nothing put into words before: one sentence with the path and the way out.
 * @returns `null` for every other error
 */
export function systemErrorInWords(error: unknown): string | null {
  if (error instanceof EdloraError || !(error instanceof Error)) return null;
  const { code, path, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined) return null;
  const reason = READING[code] ?? REASONS[code];
  if (reason === undefined) return null;
  return `${path ?? syscall}: ${reason}`;
}

/** Why something cannot be read: in words where there are some, else as the system says it. */
export function readingReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return READING[code] ?? REASONS[code] ?? (error instanceof Error ? error.message : String(error));
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
    const reason = REASONS[code] ?? (error instanceof Error ? error.message : String(error));
    throw new EdloraError(`${file}: cannot be written: ${reason}`, { cause: error });
  }
}
