/**
 * The file system, as the files of `io/` ask for it: names, descriptors, links and modes as POSIX has them, its errors by
 * their codes. Node's; a bundle for the browser takes `disk.browser.ts` in its place, which holds files in memory.
 */
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
