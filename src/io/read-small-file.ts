/**
 * Files that are read whole: settings, lists, captions, configurations. Only regular files up to a stated size are
 * opened, so that a path out of somebody else's scene cannot name a device that never ends or a pipe that never begins.
 */

import { FormatError } from '../errors.ts';
import { hexText, joinBytes, utf8Bytes, utf8Text } from './bytes.ts';
import { readingReason } from './on-disk.ts';
import {
  closeSync,
  constants,
  type FileHandle,
  fstatSync,
  open,
  openSync,
  readSync,
  type Stats,
  stat,
  statSync,
} from './platform/disk.ts';
import { freshBytes } from './platform/machine.ts';

/** Windows has no such flag; elsewhere it keeps the opening of a pipe from waiting for a writer. */
const OPEN_FLAGS = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/** Bytes asked for at once. */
const PIECE = 1 << 20;

/**
 * All bytes of a file.
 * @param maxBytes more than this is refused unread
 * @param what     what the caller expects, for messages, e.g. "a scene file"
 * @throws {FormatError} if nothing is there, it is no regular file, larger than `maxBytes`, or may not be read
 */
export async function readWholeFile(
  file: string,
  maxBytes: number,
  what = 'a file',
): Promise<Uint8Array<ArrayBuffer>> {
  let handle: FileHandle | undefined;
  try {
    checkKind(file, await stat(file), maxBytes, what);
    handle = await open(file, OPEN_FLAGS);
    // Asked again of the open file: the name may have been given to another one in between.
    const pieces = pieceBuffers(checkKind(file, await handle.stat(), maxBytes, what));
    for (;;) {
      const piece = pieces.next(file, maxBytes, what);
      const { bytesRead } = await handle.read(piece, 0, piece.length, null);
      if (bytesRead === 0) return pieces.whole();
      pieces.add(piece.subarray(0, bytesRead));
    }
  } catch (error) {
    throw asReadError(file, error, what);
  } finally {
    await handle?.close();
  }
}

/** `readWholeFile` without waiting. @throws as `readWholeFile` */
export function readWholeFileSync(file: string, maxBytes: number, what = 'a file'): Uint8Array<ArrayBuffer> {
  let descriptor: number | undefined;
  try {
    checkKind(file, statSync(file), maxBytes, what);
    descriptor = openSync(file, OPEN_FLAGS);
    const pieces = pieceBuffers(checkKind(file, fstatSync(descriptor), maxBytes, what));
    for (;;) {
      const piece = pieces.next(file, maxBytes, what);
      const bytesRead = readSync(descriptor, piece, 0, piece.length, null);
      if (bytesRead === 0) return pieces.whole();
      pieces.add(piece.subarray(0, bytesRead));
    }
  } catch (error) {
    throw asReadError(file, error, what);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/**
 * A text file: UTF-8, or UTF-16 where its byte order mark says so. The mark is left out.
 * @throws {FormatError} as `readWholeFile`, and for bytes that are no text
 */
export async function readTextFile(file: string, maxBytes: number, what = 'a text file'): Promise<string> {
  return decodeText(file, await readWholeFile(file, maxBytes, what));
}

/** `readTextFile` without waiting. @throws as `readTextFile` */
export function readTextFileSync(file: string, maxBytes: number, what = 'a text file'): string {
  return decodeText(file, readWholeFileSync(file, maxBytes, what));
}

/** Encodings by byte order mark. */
const MARKED = [
  { mark: [0xff, 0xfe], encoding: 'utf-16le' },
  { mark: [0xfe, 0xff], encoding: 'utf-16be' },
] as const;

/** @throws {FormatError} for bytes that are no text, with their place */
function decodeText(file: string, bytes: Uint8Array): string {
  const wide = MARKED.find(({ mark }) => mark.every((byte, i) => bytes[i] === byte));
  if (wide !== undefined) {
    try {
      return new TextDecoder(wide.encoding, { fatal: true }).decode(bytes);
    } catch (cause) {
      throw new FormatError(file, 'expected text in UTF-16, as its first bytes say, got something else', {
        cause,
      });
    }
  }
  // As UTF-16 without its mark has them; no text has any.
  const zero = bytes.indexOf(0);
  if (zero >= 0) {
    throw new FormatError(file, `expected text in UTF-8, got byte 0x00 at ${zero}; save it as UTF-8`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    const again = utf8Bytes(utf8Text(bytes));
    let place = 0;
    while (place < bytes.length && bytes[place] === again[place]) place++;
    const shown = hexText(bytes.subarray(place, place + 1));
    throw new FormatError(
      file,
      `expected text in UTF-8, got byte 0x${shown} at ${place}; save it as UTF-8, or is it no text?`,
      { cause },
    );
  }
}

/** @returns the size. @throws {FormatError} unless it is a regular file of at most `maxBytes` */
function checkKind(file: string, stats: Stats, maxBytes: number, what: string): number {
  if (stats.isDirectory()) throw new FormatError(file, `expected ${what}, got a folder`);
  if (!stats.isFile()) {
    throw new FormatError(file, `expected ${what}, a regular file, got a device or a pipe`);
  }
  if (stats.size > maxBytes) throw tooLarge(file, stats.size, maxBytes, what);
  return stats.size;
}

function tooLarge(file: string, bytes: number, maxBytes: number, what: string): FormatError {
  return new FormatError(file, `expected ${what} of at most ${maxBytes} bytes, got ${bytes}`);
}

/** Pieces read so far. Sizes that the system tells are not trusted: files of /proc say 0, and files grow. */
function pieceBuffers(size: number) {
  const pieces: Uint8Array[] = [];
  let total = 0;
  return {
    next(file: string, maxBytes: number, what: string): Uint8Array {
      if (total > maxBytes) throw tooLarge(file, total, maxBytes, what);
      // One byte more than it should have, which tells in the same call whether it ends there.
      return freshBytes(Math.min(PIECE, Math.max(size - total, 0) + 1));
    },
    add(piece: Uint8Array): void {
      pieces.push(piece);
      total += piece.length;
    },
    whole: (): Uint8Array<ArrayBuffer> => joinBytes(pieces),
  };
}

/** Words for what the operating system said. */
function asReadError(file: string, error: unknown, what: string): FormatError {
  if (error instanceof FormatError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const message =
    code === 'ENOENT' || code === 'ENOTDIR'
      ? `expected ${what}, got nothing: no such file; check the path`
      : code === 'EACCES' || code === 'EPERM'
        ? `expected ${what} that may be read, got "permission denied"; check its owner and mode`
        : `cannot be read: ${readingReason(error)}`;
  return new FormatError(file, message, { cause: error });
}
