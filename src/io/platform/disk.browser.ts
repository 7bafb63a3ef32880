/**
 * Files held in memory, for pages: a dropped file is put here under a name, and a result is taken from here. Calls, errors
 * and codes are those of `disk.ts`, as far as the files of `io/` ask for them; there are no symbolic links.
 */
import { joinBytes, utf8Bytes, utf8Text } from '../bytes.ts';
import * as path from './paths.browser.ts';

interface Entry {
  readonly inode: bigint;
  mode: number;
  modifiedNs: bigint;
  /** `null`: a file. */
  readonly entries: Map<string, Entry> | null;
  /** Of a file; the first `size` count. */
  bytes: Uint8Array<ArrayBuffer>;
  size: number;
}

let made = 0n;
let lastTime = 0n;

/** Later each time. */
function now(): bigint {
  const clock = BigInt(Date.now()) * 1_000_000n;
  lastTime = clock > lastTime ? clock : lastTime + 1n;
  return lastTime;
}

const entry = (entries: Map<string, Entry> | null, mode: number): Entry => ({
  inode: ++made,
  mode,
  modifiedNs: now(),
  entries,
  bytes: new Uint8Array(0),
  size: 0,
});

const root = entry(new Map(), 0o755);
root.entries!.set('tmp', entry(new Map(), 0o777));

function failure(code: string, syscall: string, file: string): Error {
  return Object.assign(new Error(`${code}: ${syscall} '${file}'`), { code, syscall, path: file, errno: -1 });
}

function find(file: string, syscall: string): Entry {
  let at = root;
  for (const step of path.resolve(file).split('/')) {
    if (step === '') continue;
    if (at.entries === null) throw failure('ENOTDIR', syscall, file);
    const next = at.entries.get(step);
    if (next === undefined) throw failure('ENOENT', syscall, file);
    at = next;
  }
  return at;
}

/** The folder that holds a name, and the name. */
function placeOf(file: string, syscall: string): { folder: Map<string, Entry>; name: string } {
  const { entries } = find(path.dirname(path.resolve(file)), syscall);
  if (entries === null) throw failure('ENOTDIR', syscall, file);
  return { folder: entries, name: path.basename(path.resolve(file)) };
}

/** A dropped file under a name; folders above it are made. */
export function putFile(file: string, bytes: Uint8Array<ArrayBuffer>): void {
  let folder = root.entries!;
  for (const step of path.dirname(path.resolve(file)).split('/')) {
    if (step === '') continue;
    const next = folder.get(step) ?? entry(new Map(), 0o755);
    if (next.entries === null) throw failure('ENOTDIR', 'open', file);
    folder.set(step, next);
    folder = next.entries;
  }
  folder.set(path.basename(file), Object.assign(entry(null, 0o644), { bytes, size: bytes.length }));
}

export const constants = { O_RDONLY: 0, O_NONBLOCK: 0, COPYFILE_FICLONE: 0 };

const statsOf = (found: Entry) => ({
  size: found.size,
  mode: found.mode,
  mtimeMs: Number(found.modifiedNs / 1_000_000n),
  uid: 0,
  gid: 0,
  dev: 1,
  ino: Number(found.inode),
  ...kindOf(found),
});

const exactStatsOf = (found: Entry) => ({
  size: BigInt(found.size),
  mtimeNs: found.modifiedNs,
  ino: found.inode,
  dev: 1n,
  ...kindOf(found),
});

const kindOf = ({ entries }: Entry) => ({
  isFile: () => entries === null,
  isDirectory: () => entries !== null,
  isSymbolicLink: () => false,
  isFIFO: () => false,
  isSocket: () => false,
});

interface StatOptions {
  readonly bigint?: boolean;
  readonly throwIfNoEntry?: boolean;
}

export function statSync(file: string, { bigint = false, throwIfNoEntry = true }: StatOptions = {}) {
  try {
    const found = find(file, 'stat');
    return bigint ? exactStatsOf(found) : statsOf(found);
  } catch (error) {
    if (throwIfNoEntry) throw error;
    return undefined;
  }
}
export const lstatSync = statSync;

export const existsSync = (file: string): boolean => statSync(file, { throwIfNoEntry: false }) !== undefined;

export function realpathSync(file: string): string {
  find(file, 'realpath');
  return path.resolve(file);
}

export function readlinkSync(file: string): string {
  throw failure('EINVAL', 'readlink', file);
}

/** Open files by their numbers. */
const opened = new Map<number, Entry>();
let descriptors = 2;

export function openSync(file: string, _flags: string | number = 'r'): number {
  const found = find(file, 'open');
  opened.set(++descriptors, found);
  return descriptors;
}

export function closeSync(descriptor: number): void {
  opened.delete(descriptor);
}

function openEntry(descriptor: number): Entry {
  const found = opened.get(descriptor);
  if (found === undefined) throw failure('EBADF', 'read', '');
  return found;
}

export function fstatSync(descriptor: number, { bigint = false }: StatOptions = {}) {
  return bigint ? exactStatsOf(openEntry(descriptor)) : statsOf(openEntry(descriptor));
}

/** Where files are read that nobody asks for a place of. */
const positions = new Map<number, number>();

export function readSync(
  descriptor: number,
  target: Uint8Array,
  offset: number,
  length: number,
  position: number | null,
): number {
  const found = openEntry(descriptor);
  if (found.entries !== null) throw failure('EISDIR', 'read', '');
  const from = position ?? positions.get(descriptor) ?? 0;
  const part = found.bytes.subarray(Math.min(from, found.size), Math.min(from + length, found.size));
  target.set(part, offset);
  if (position === null) positions.set(descriptor, from + part.length);
  return part.length;
}

/** The same: bytes in memory take no time. */
export async function readLater(...range: Parameters<typeof readSync>): Promise<number> {
  return readSync(...range);
}

/** All bytes as they are now; with an encoding, as text. */
export function readFileSync(file: string): Uint8Array<ArrayBuffer>;
export function readFileSync(file: string, encoding: 'utf8'): string;
export function readFileSync(file: string, encoding?: 'utf8'): Uint8Array<ArrayBuffer> | string {
  const found = find(file, 'open');
  if (found.entries !== null) throw failure('EISDIR', 'read', file);
  const bytes = found.bytes.subarray(0, found.size);
  return encoding === undefined ? bytes : utf8Text(bytes);
}

interface Listing {
  readonly withFileTypes?: boolean;
}

export function readdirSync(folder: string, { withFileTypes = false }: Listing = {}) {
  const { entries } = find(folder, 'scandir');
  if (entries === null) throw failure('ENOTDIR', 'scandir', folder);
  return withFileTypes
    ? [...entries].map(([name, found]) => ({ name, parentPath: folder, ...kindOf(found) }))
    : [...entries.keys()];
}

export function linkSync(file: string, target: string): void {
  const found = find(file, 'link');
  const { folder, name } = placeOf(target, 'link');
  if (found.entries !== null) throw failure('EPERM', 'link', file);
  if (folder.has(name)) throw failure('EEXIST', 'link', target);
  folder.set(name, found);
}

export function renameSync(file: string, target: string): void {
  const found = find(file, 'rename');
  const [from, to] = [placeOf(file, 'rename'), placeOf(target, 'rename')];
  const there = to.folder.get(to.name);
  if (there === found) return;
  if (there !== undefined && there.entries !== null && found.entries === null)
    throw failure('EISDIR', 'rename', target);
  if (there !== undefined && there.entries === null && found.entries !== null)
    throw failure('ENOTDIR', 'rename', target);
  if (there?.entries != null && there.entries.size > 0) throw failure('ENOTEMPTY', 'rename', target);
  from.folder.delete(from.name);
  to.folder.set(to.name, found);
}

export function unlinkSync(file: string): void {
  if (find(file, 'unlink').entries !== null) throw failure('EPERM', 'unlink', file);
  const { folder, name } = placeOf(file, 'unlink');
  folder.delete(name);
}

interface Removal {
  readonly force?: boolean;
  readonly recursive?: boolean;
}

export function rmSync(file: string, { force = false, recursive = false }: Removal = {}): void {
  if (force && !existsSync(file)) return;
  if (find(file, 'rm').entries !== null && !recursive) throw failure('EISDIR', 'rm', file);
  const { folder, name } = placeOf(file, 'rm');
  folder.delete(name);
}

export async function mkdir(target: string): Promise<void> {
  const { folder, name } = placeOf(target, 'mkdir');
  if (folder.has(name)) throw failure('EEXIST', 'mkdir', target);
  folder.set(name, entry(new Map(), 0o755));
}

export async function rmdir(target: string): Promise<void> {
  const { entries } = find(target, 'rmdir');
  if (entries === null) throw failure('ENOTDIR', 'rmdir', target);
  if (entries.size > 0) throw failure('ENOTEMPTY', 'rmdir', target);
  const { folder, name } = placeOf(target, 'rmdir');
  folder.delete(name);
}

export async function chmod(file: string, mode: number): Promise<void> {
  find(file, 'chmod').mode = mode;
}

export async function copyFile(file: string, target: string): Promise<void> {
  await writeFile(target, readFileSync(file).slice());
}

interface Copying {
  readonly recursive?: boolean;
  readonly filter?: (source: string) => boolean;
}

export async function cp(from: string, to: string, { filter = () => true }: Copying = {}): Promise<void> {
  if (!filter(from)) return;
  const { entries } = find(from, 'cp');
  if (entries === null) return copyFile(from, to);
  if (!existsSync(to)) await mkdir(to);
  for (const name of entries.keys()) await cp(path.join(from, name), path.join(to, name), { filter });
}

interface Writing {
  readonly flag?: string;
}

export async function writeFile(
  file: string,
  content: Uint8Array | string,
  { flag = 'w' }: Writing = {},
): Promise<void> {
  const handle = await open(file, flag);
  const bytes = typeof content === 'string' ? utf8Bytes(content) : content;
  await handle.write(bytes, 0, bytes.length);
  await handle.close();
}

export const link = async (file: string, target: string): Promise<void> => linkSync(file, target);
export const rename = async (file: string, target: string): Promise<void> => renameSync(file, target);
export const rm = async (file: string, options?: Removal): Promise<void> => rmSync(file, options);
export const stat = async (file: string, options?: StatOptions) => statSync(file, options);
export const readdir = async (folder: string, options?: Listing) => readdirSync(folder, options);

/** @param flags `r`, `r+`; `w` makes or empties; `wx` makes what must not be there */
export async function open(file: string, flags: string | number = 'r', mode = 0o644) {
  if (flags === 'w' || flags === 'wx') {
    const { folder, name } = placeOf(file, 'open');
    const there = folder.get(name);
    if (there !== undefined && flags === 'wx') throw failure('EEXIST', 'open', file);
    if (there?.entries != null) throw failure('EISDIR', 'open', file);
    folder.set(name, there ?? entry(null, mode));
    if (there !== undefined) there.size = 0;
  }
  return new Handle(openSync(file));
}

class Handle {
  readonly #descriptor: number;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  async read(target: Uint8Array, offset: number, length: number, position: number | null) {
    return {
      bytesRead: readSync(this.#descriptor, target, offset, length, position),
      buffer: target,
    };
  }

  /** At the end. */
  async write(content: Uint8Array, offset: number, length: number) {
    const file = openEntry(this.#descriptor);
    const size = file.size + length;
    if (size > file.bytes.length) {
      const room = new Uint8Array(Math.max(size, 2 * file.bytes.length) - file.size);
      file.bytes = joinBytes([file.bytes.subarray(0, file.size), room]);
    }
    file.bytes.set(content.subarray(offset, offset + length), file.size);
    file.size = size;
    file.modifiedNs = now();
    return { bytesWritten: length };
  }

  async stat(options?: StatOptions) {
    return fstatSync(this.#descriptor, options);
  }

  async chmod(mode: number): Promise<void> {
    openEntry(this.#descriptor).mode = mode;
  }

  async chown(): Promise<void> {}
  async sync(): Promise<void> {}

  async close(): Promise<void> {
    closeSync(this.#descriptor);
    positions.delete(this.#descriptor);
  }
}
