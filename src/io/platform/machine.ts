/** What the machine has: memory, folders, chance, time. Node's; a bundle for the browser takes `machine.browser.ts` in its place. */
import { randomBytes } from 'node:crypto';
import { homedir, tmpdir, totalmem } from 'node:os';

export { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';

/** Bytes of memory that this process may use: of the machine, or of the container it runs in. */
export function availableMemory(): number {
  // 0: not known; a container without a limit says a number beyond all memory.
  const constrained = process.constrainedMemory?.() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
export const homeFolder = (): string => homedir();
export const temporaryFolder = (): string => tmpdir();
/** From which relative paths are seen. */
export const currentFolder = (): string => process.cwd();
export const isSuperuser = (): boolean => process.geteuid?.() === 0;

/** Digits that nobody can guess, two a byte. */
export const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');

/** Memory that is written before it is read: not cleared, in a buffer of its own. */
export const freshBytes = (length: number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
