/** Which lines each test file enters, kept from run to run and asked again where a test file has changed. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { EnteredLines } from './entered-lines.ts';

interface OfTest {
  /** Of the test file. */
  readonly hash: string;
  /** By source: its hash then, and its lines as `[first, last]`. */
  readonly sources: Readonly<Record<string, { hash: string; lines: readonly (readonly [number, number])[] }>>;
}

export class Entered {
  readonly #root: string;
  readonly #store: string;
  readonly #tests: Map<string, OfTest>;
  readonly #hashes = new Map<string, string>();

  /** @param store the file that keeps it */
  constructor(root: string, store: string) {
    this.#root = root;
    this.#store = store;
    const kept = existsSync(store) ? (JSON.parse(readFileSync(store, 'utf8')) as Record<string, OfTest>) : {};
    this.#tests = new Map(Object.entries(kept));
  }

  isKnown(test: string): boolean {
    return this.#tests.get(test)?.hash === this.#hash(test);
  }

  learn(test: string, entered: EnteredLines): void {
    const sources: Record<string, OfTest['sources'][string]> = {};
    for (const [file, lines] of Object.entries(entered))
      sources[file] = { hash: this.#hash(file), lines: spans(lines) };
    this.#tests.set(test, { hash: this.#hash(test), sources });
  }

  /** Whether a test runs a line. Any test may that is not known, and any line counts of a source that is not as it was. */
  enters(test: string, file: string, line: number): boolean {
    if (!this.isKnown(test)) return true;
    const source = this.#tests.get(test)?.sources[file];
    if (source === undefined) return false;
    if (source.hash !== this.#hash(file)) return true;
    return source.lines.some(([first, last]) => first <= line && line <= last);
  }

  save(): void {
    writeFileSync(this.#store, JSON.stringify(Object.fromEntries(this.#tests)));
  }

  #hash(file: string): string {
    const known = this.#hashes.get(file);
    if (known !== undefined) return known;
    const made = createHash('sha256')
      .update(readFileSync(path.join(this.#root, file)))
      .digest('hex')
      .slice(0, 16);
    this.#hashes.set(file, made);
    return made;
  }
}

function spans(lines: readonly number[]): [number, number][] {
  const found: [number, number][] = [];
  for (const line of lines) {
    const last = found.at(-1);
    if (last?.[1] === line - 1) last[1] = line;
    else found.push([line, line]);
  }
  return found;
}
