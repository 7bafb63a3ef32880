/**
 * The files that a job reads: what each was when its tensors were found in it, and its hash, taken once and of that very
 * file. So that a recipe never names a hash of something else than what was read.
 */
import pLimit from 'p-limit';
import { FormatError } from '../errors.ts';
import { checkUnchanged, type FileIdentity, identify } from '../io/file-identity.ts';
import { hashFile, READERS } from './file-hash.ts';
import type { RawTensor } from './raw-tensor.ts';

export class InputFiles {
  readonly #opened = new Map<string, FileIdentity>();
  readonly #hashes = new Map<string, Promise<string>>();
  readonly #limit = pLimit(READERS);
  readonly #signal: AbortSignal | undefined;

  /** @param signal ends the hashing with its reason, once it is aborted */
  constructor(signal?: AbortSignal) {
    this.#signal = signal;
  }

  /**
   * @param files  absolute paths
   * @param opened what was found when some of them were opened; default: as they are now
   * @throws {FormatError} if one is not there
   */
  add(files: Iterable<string>, opened: Iterable<FileIdentity> = []): this {
    for (const identity of opened) {
      const before = this.#opened.get(identity.path);
      if (before?.inode === identity.inode && before.modifiedNs === identity.modifiedNs) continue;
      this.#opened.set(identity.path, identity);
      this.#hashes.delete(identity.path);
    }
    for (const file of files) {
      if (this.#opened.has(file)) continue;
      try {
        this.#opened.set(file, identify(file));
      } catch (cause) {
        throw new FormatError(file, 'cannot be read', { cause });
      }
    }
    return this;
  }

  /** @throws {FormatError} naming a file that is not what it was, and what changed */
  check(): void {
    checkUnchanged(this.#opened.values());
  }

  /**
   * sha256 by path, lower-case hex; each file is read once, however often it is asked for.
   * @param files default: all
   * @throws {FormatError} if one cannot be read, or has changed since it was opened
   */
  async hashes(files: Iterable<string> = this.#opened.keys()): Promise<Map<string, string>> {
    const wanted = [...new Set(files)];
    this.add(wanted);
    const hashes = await Promise.all(wanted.map((file) => this.#hashOf(file)));
    return new Map(wanted.map((file, i) => [file, hashes[i]!]));
  }

  #hashOf(file: string): Promise<string> {
    const known = this.#hashes.get(file);
    if (known !== undefined) return known;
    const identity = this.#opened.get(file)!;
    const hash = this.#limit(async () => {
      checkUnchanged([identity]);
      const result = await hashFile(file, this.#signal);
      checkUnchanged([identity]);
      return result;
    });
    this.#hashes.set(file, hash);
    // Asked for again after a failure, it is tried again.
    hash.catch(() => this.#hashes.delete(file));
    return hash;
  }
}

/** What was found when the files were opened that these tensors lie in. */
export function openedFiles(tensors: Iterable<RawTensor>): Set<FileIdentity> {
  const opened = new Set<FileIdentity>();
  for (const { storage } of tensors) if (storage.opened !== undefined) opened.add(storage.opened);
  return opened;
}
