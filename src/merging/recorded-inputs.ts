/**
 * The files that a recipe names, looked for and hashed. A recipe comes from whoever made the file: of what it names only
 * ordinary files of weights and their configurations are opened, of the size that it states.
 */

import { hashFile } from '../formats/file-hash.ts';
import { readFileSync, realpathSync, statSync } from '../io/platform/disk.ts';
import { currentFolder } from '../io/platform/machine.ts';
import * as path from '../io/platform/paths.ts';
import { placesOf } from '../io/recorded-path.ts';
import { defaultBase } from '../package-root.ts';
import type { RecordedFile } from './recipe-schema.ts';

export interface VerifiedInput {
  /** As the recipe has it. */
  readonly path: string;
  /** Where it was found; `null` if nowhere. */
  readonly found: string | null;
  readonly sha256: string;
  /** `refused`: something is there that is not read; `reason` says what. */
  readonly state: 'same' | 'changed' | 'missing' | 'refused';
  readonly reason: string | null;
}

/** Endings of files that jobs read. */
const KINDS = /\.(safetensors|pth|pt|bin|ckpt|json)$/i;
/** Files that the system makes up while they are read. */
const SYSTEM = /^\/(proc|sys|dev)\//;
/** Of a file whose size no recipe states, as older ones do not: more than any checkpoint of Stable Diffusion has. */
const MAX_UNSTATED_BYTES = 16 * 2 ** 30;
/** Of a recipe beside the result. */
const MAX_RECIPE_BYTES = 4 << 20;

/** Looks for inputs; every file is hashed once, however often it is named. */
export class RecordedInputs {
  readonly #folders: readonly string[];
  readonly #search: readonly string[];
  readonly #beside: ReadonlyMap<string, string>;
  readonly #hashes = new Map<string, Promise<string>>();
  readonly #signal: AbortSignal | undefined;

  /**
   * @param file   that holds the recipe
   * @param search further folders to look in
   * @param signal its reason is thrown once it is aborted
   */
  constructor(file: string, search: readonly string[], signal?: AbortSignal) {
    this.#signal = signal;
    const holders = [path.dirname(path.resolve(file))];
    // A PEFT adapter and a model's part lie up to two folders below what their recipe is seen from.
    for (let i = 0; i < 3; i++) holders.push(path.dirname(holders.at(-1)!));
    // The miniature that jobs take where no base is named lies with the package.
    const named = [currentFolder(), path.dirname(defaultBase())];
    this.#search = search.map((folder) => path.resolve(folder));
    this.#folders = [...new Set([...holders, ...named, ...this.#search])];
    this.#beside = recordedBeside(holders.slice(0, 3));
  }

  async verify({ path: recorded, sha256, sizeBytes }: RecordedFile): Promise<VerifiedInput> {
    const told = this.#beside.get(sha256);
    const name = path.basename(recorded.replaceAll('\\', '/'));
    const own = [
      ...placesOf(recorded, this.#folders),
      ...this.#search.map((folder) => path.join(folder, name)),
      ...(told === undefined ? [] : [told]),
    ];
    // A file of the same name that nobody pointed at is the right one or none.
    const chance = this.#folders.map((folder) => path.join(folder, name));
    let best: VerifiedInput = { path: recorded, found: null, sha256, state: 'missing', reason: null };
    for (const place of new Set([...own, ...chance])) {
      const verdict = await this.#judge(place, sha256, sizeBytes);
      if (verdict === null) continue;
      const input = { path: recorded, found: place, sha256, ...verdict };
      if (input.state === 'same') return input;
      // What was recorded where it was recorded says more than a file of its name elsewhere.
      if (best.state === 'missing' && own.includes(place)) best = input;
    }
    return best;
  }

  /** `null` if nothing is there. */
  async #judge(
    place: string,
    sha256: string,
    sizeBytes: number | undefined,
  ): Promise<Pick<VerifiedInput, 'state' | 'reason'> | null> {
    let info: ReturnType<typeof statSync>;
    try {
      info = statSync(place, { throwIfNoEntry: false });
    } catch {
      // A part of the path is no folder, or may not be entered.
      return null;
    }
    if (info === undefined) return null;
    const refused = (reason: string) => ({ state: 'refused' as const, reason });
    if (!info.isFile()) return refused(`expected an ordinary file, got ${kindOf(info)}`);
    // By the name as recorded: caches of downloads link it to a file without an ending.
    if (!KINDS.test(place) || SYSTEM.test(realpathSync(place))) {
      return refused('expected a file of weights or a configuration, by its ending');
    }
    if (sizeBytes !== undefined && info.size !== sizeBytes) {
      return { state: 'changed', reason: `${sizeBytes} bytes recorded, got ${info.size}` };
    }
    if (info.size > MAX_UNSTATED_BYTES) {
      return refused(`expected at most ${MAX_UNSTATED_BYTES} bytes, got ${info.size}`);
    }
    let hash = this.#hashes.get(place);
    if (hash === undefined) {
      hash = hashFile(place, this.#signal);
      this.#hashes.set(place, hash);
    }
    return { state: (await hash) === sha256 ? 'same' : 'changed', reason: null };
  }
}

function kindOf(info: NonNullable<ReturnType<typeof statSync>>): string {
  if (info.isDirectory()) return 'a folder';
  if (info.isFIFO()) return 'a pipe';
  if (info.isSocket()) return 'a socket';
  return 'a device';
}

/** Where a fusion's recipe.json, which stays on the machine, says that files lie; by hash, which is checked like any other. */
function recordedBeside(folders: readonly string[]): Map<string, string> {
  const places = new Map<string, string>();
  for (const folder of folders) {
    const file = path.join(folder, 'recipe.json');
    const info = statSync(file, { throwIfNoEntry: false });
    if (info === undefined || !info.isFile() || info.size > MAX_RECIPE_BYTES) continue;
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(file, 'utf8'));
    } catch {
      // Not what it is called; only a help anyway.
      continue;
    }
    for (const { path: own, sha256 } of filesOfFusion(value)) places.set(sha256, path.resolve(folder, own));
  }
  return places;
}

function filesOfFusion(value: unknown): { path: string; sha256: string }[] {
  const field = (from: unknown, name: string): unknown =>
    typeof from === 'object' && from !== null ? (from as Record<string, unknown>)[name] : undefined;
  const list = (from: unknown): unknown[] => (Array.isArray(from) ? from : []);
  const entries = [
    ...list(field(field(value, 'base'), 'files')),
    ...list(field(value, 'concepts')).flatMap((concept) => list(field(concept, 'files'))),
  ];
  return entries.flatMap((entry) => {
    const [own, sha256] = [field(entry, 'path'), field(entry, 'sha256')];
    return typeof own === 'string' && typeof sha256 === 'string' ? [{ path: own, sha256 }] : [];
  });
}
