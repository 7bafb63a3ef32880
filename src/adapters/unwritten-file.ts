/**
 * What a writer is about to write, read by the reader of its scheme before a byte is on disk: names, shapes, scales and
 * words, all in memory. A file that its own reader would refuse, or take for something else, is not written.
 */

import { EdloraError, FormatError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import type { TorchValue } from '../formats/torch-value.ts';
import * as path from '../io/platform/paths.ts';

/**
 * A file that does not exist yet, as a reader will find it.
 * @param root of torch files, what a reader looks at in it
 * @throws {UsageError} if two tensors have one name
 */
export function unwrittenFile(
  target: string,
  tensors: readonly RawTensor[],
  metadata: Readonly<Record<string, string>> = {},
  root: TorchValue | null = null,
): TensorFile {
  const byName = new Map<string, RawTensor>();
  for (const tensor of tensors) {
    if (byName.has(tensor.name)) {
      throw new UsageError(`${target}: expected distinct tensor names, got ${excerpt(tensor.name)} twice`);
    }
    byName.set(tensor.name, tensor);
  }
  return {
    path: path.resolve(target),
    format: root === null ? 'safetensors' : 'torch-zip',
    sizeBytes: 0,
    tensors: byName,
    metadata: new Map(Object.entries(metadata)),
    root,
  };
}

/** Read an unwritten file. @throws {FormatError} naming the target and the reader's reason */
export function readUnwritten<T>(target: string, scheme: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof EdloraError)) throw error;
    const reason = error.message.replaceAll(`${path.resolve(target)}: `, '');
    throw unreadable(target, scheme, reason, error);
  }
}

/** The error for a file that would be read as something else. @param reason after a colon */
export function unreadable(target: string, scheme: string, reason: string, cause?: unknown): FormatError {
  return new FormatError(target, `cannot be written as ${scheme}, it would not open again: ${reason}`, {
    cause,
  });
}

/** What is in one list and not in the other, as a reason; `null` if they hold the same, in whatever order. */
export function differenceOf(
  what: string,
  written: readonly string[],
  read: readonly string[],
): string | null {
  const [wanted, found] = [new Set(written), new Set(read)];
  const missing = written.find((name) => !found.has(name));
  if (missing !== undefined) return `${what} ${excerpt(missing)} would be lost`;
  const extra = read.find((name) => !wanted.has(name));
  if (extra !== undefined) return `${what} ${excerpt(extra)} would appear`;
  if (written.length === read.length) return null;
  return `expected ${written.length} of ${what}, got ${read.length}`;
}
