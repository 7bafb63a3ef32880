/**
 * Where a collection under way keeps its state, beside its result: one file for each collection, named after the process
 * that writes it. What a process left that is gone is taken over, by renaming it, which only one can do; what another one
 * is writing is never touched.
 */
import { readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import { FormatError } from '../../errors.ts';
import { OWNER_PATTERN, ownerIsAlive, ownerMark } from '../../io/platform/process-owner.ts';
import { moveUnlessTaken, setAside } from '../../io/set-aside.ts';
import type { SpatialState } from './collect.ts';
import { openPartial, type StatisticsKey, VersionError, writePartial } from './statistics-file.ts';

const END = '.partial.safetensors';
/** Process, thread, number of the collection in it. A collection that ended by itself leaves its file without them. */
const OWNED = new RegExp(`^\\.(${OWNER_PATTERN})-(\\d+)-(\\d+)$`);

/** What another machine left, or a container, is kept this long after its last change: it may still run there. */
const FOREIGN_DAYS = 7;
const DAY_MS = 86_400_000;

/** Files that collections of this thread are writing now. */
const inUse = new Set<string>();
let collections = 0;

/** The state of one collection: taken up where there is one, then written, then gone or left for the next. */
export class PartialFile {
  /** Where the earlier collection stopped; `null`: there was none. */
  readonly state: SpatialState | null;
  readonly #stem: string;
  readonly #recipe: StatisticsKey;
  readonly #own: string;
  /** States that were taken over, the furthest first; of no use once the result is there. */
  readonly #spare: readonly string[];

  private constructor(
    stem: string,
    recipe: StatisticsKey,
    own: string,
    found: { readonly state: SpatialState | null; readonly spare: readonly string[] },
  ) {
    this.#stem = stem;
    this.#recipe = recipe;
    this.#own = own;
    this.state = found.state;
    this.#spare = found.spare;
  }

  /**
   * @param result the file that the collection is for
   * @param onNote told of states that cannot be used, which are set aside
   */
  static async takeUp(
    result: string,
    recipe: StatisticsKey,
    onNote: (text: string) => void,
  ): Promise<PartialFile> {
    const stem = stemOf(result);
    const own = freshName(stem);
    let best: SpatialState | null = null;
    const spare: string[] = [];
    for (const { file, foreign } of leftOver(stem)) {
      const taken = foreign ? file : takeOver(stem, file);
      if (taken === null) continue;
      const state = await usable(stem, taken, recipe, foreign, onNote);
      if (state === null) {
        inUse.delete(taken);
        continue;
      }
      const further = best === null || isFurther(state, best);
      if (further) best = state;
      if (!foreign) spare.splice(further ? 0 : spare.length, 0, taken);
    }
    return new PartialFile(stem, recipe, own, { state: best, spare });
  }

  /** @throws {EdloraError} if the disk is full or the folder not writable */
  async write(state: SpatialState): Promise<void> {
    await writePartial(this.#own, this.#recipe, state);
  }

  /** The result is there: no state is needed any more. */
  finish(): void {
    for (const file of [this.#own, ...this.#spare]) remove(file);
  }

  /** The collection was cut short: what is there belongs to nobody, and to the next one that asks. */
  release(): void {
    const files = [this.#own, ...this.#spare];
    for (const file of files) inUse.delete(file);
    // The furthest gets the name without a process; the others keep theirs, which says whose they were.
    files.some((file) => movedTo(file, this.#stem + END));
  }
}

/** `false` if there is nothing to move, or something has the name. */
function movedTo(file: string, target: string): boolean {
  try {
    moveUnlessTaken(file, target);
    return true;
  } catch {
    return false;
  }
}

/** Remove the states that processes which are gone left of a collection whose result is there. */
export function sweepPartials(result: string): void {
  for (const { file, foreign } of leftOver(stemOf(result))) {
    if (!foreign || ageOf(file) > FOREIGN_DAYS * DAY_MS) remove(file);
  }
}

const stemOf = (result: string): string => path.resolve(result).replace(/(\.stats)?\.safetensors$/, '');

function freshName(stem: string): string {
  const file = `${stem}.${ownerMark()}-${threadId}-${collections++}${END}`;
  inUse.add(file);
  return file;
}

interface LeftOver {
  readonly file: string;
  /** Of another machine, container or boot, of which nothing can be said. */
  readonly foreign: boolean;
}

/** States beside a result that no collection is writing, as far as that can be told. */
function leftOver(stem: string): LeftOver[] {
  const { dir, base } = path.parse(stem);
  const found: LeftOver[] = [];
  for (const name of namesIn(dir)) {
    if (!name.startsWith(base) || !name.endsWith(END)) continue;
    const owner = name.slice(base.length, -END.length);
    const file = path.join(dir, name);
    if (owner === '') found.push({ file, foreign: false });
    const parts = OWNED.exec(owner);
    if (parts === null) continue;
    const [mark, thread] = [parts[1]!, Number(parts.at(-2))];
    const ours = mark === ownerMark();
    if (ours ? thread === threadId && !inUse.has(file) : !ownerIsAlive(mark)) {
      found.push({ file, foreign: false });
    } else if (!ours && isElsewhere(mark)) found.push({ file, foreign: true });
  }
  return found;
}

/** Whether a mark was made on another machine, in another container, or before the last start. */
function isElsewhere(mark: string): boolean {
  return mark.split('-')[0] !== ownerMark().split('-')[0];
}

/** Make it this collection's own. @returns its new name; `null` if another process was first */
function takeOver(stem: string, file: string): string | null {
  const own = freshName(stem);
  try {
    renameSync(file, own);
    return own;
  } catch {
    inUse.delete(own);
    return null;
  }
}

/** @returns `null`, and a note, for a state that is damaged or of another collection */
async function usable(
  stem: string,
  file: string,
  recipe: StatisticsKey,
  foreign: boolean,
  onNote: (text: string) => void,
): Promise<SpatialState | null> {
  let why = 'of a collection with other options';
  try {
    const state = await openPartial(file, recipe);
    if (state !== null) return state;
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const reason = error.message.replace(`${error.file}: `, '');
    why = error instanceof VersionError ? reason : `damaged (${reason})`;
  }
  const shown = stem + END;
  if (foreign) {
    onNote(`${file}: an unfinished collection, ${why}: it is not gone on with`);
    return null;
  }
  const aside = setAside(file, shown);
  onNote(
    `${shown}: an unfinished collection, ${why}: ${aside === null ? 'it is not gone on with' : `set aside as ${path.basename(aside)}`}, begun anew`,
  );
  return null;
}

const isFurther = (a: SpatialState, b: SpatialState): boolean =>
  a.runsDone > b.runsDone || (a.runsDone === b.runsDone && a.predictions.length > b.predictions.length);

function ageOf(file: string): number {
  return Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
}

function remove(file: string): void {
  inUse.delete(file);
  try {
    rmSync(file, { force: true });
  } catch {
    // Read-only by now: it stays for the next one.
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
