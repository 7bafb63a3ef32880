/**
 * The file system, as the files of `io/` ask for it: names, descriptors, links and modes as POSIX has them, its errors by
 * their codes. Node's; a bundle for the browser takes `disk.browser.ts` in its place, which holds files in memory.
 */
import { read } from 'node:fs';
import { promisify } from 'node:util';

export {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  unlinkSync,
} from 'node:fs';
export {
  chmod,
  copyFile,
  cp,
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from 'node:fs/promises';

const readOnce = promisify(read);

/** As `readSync` from a position, in a thread of its own. */
export async function readLater(
  descriptor: number,
  target: Uint8Array,
  offset: number,
  length: number,
  position: number,
): Promise<number> {
  return (await readOnce(descriptor, target, offset, length, position)).bytesRead;
}
