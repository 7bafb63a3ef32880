/**
 * What a result's inputs went through before: every original file once, by its hash, with the header it had, and the jobs
 * since as a list, oldest first. The size is bounded: of a long history the oldest jobs are counted instead of told.
 */

import { z } from 'zod';
import type { Adapter } from '../adapters/adapter.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { utf8Length } from '../io/bytes.ts';
import * as path from '../io/platform/paths.ts';

/** Header entry with the recipe; fusions use it too. */
export const recipeKey = 'edlora.recipe';
/** Header entry with the original inputs and the headers they had. */
export const inputsKey = 'edlora.inputs';
/** Header entry with the jobs between them and the recipe's inputs. */
export const stepsKey = 'edlora.steps';

const own = [recipeKey, inputsKey, stepsKey] as const;

/** A file that no job of this tool made. */
export interface Original {
  /** Without its ending. */
  readonly name: string;
  readonly sha256: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** Bytes of metadata that were left out. */
  readonly omitted?: number | undefined;
}

/** A job of this tool whose result went on. */
export interface Step {
  /** Hash of the file that it made. */
  readonly result: { readonly name: string; readonly sha256: string };
  /** Its recipe; `null` if that could not be kept. */
  readonly recipe: unknown;
}

export interface History {
  readonly originals: readonly Original[];
  readonly steps: readonly Step[];
  /** Jobs before the steps, of which only the number is known. */
  readonly earlier: number;
}

/** Bytes of a result's header that its provenance takes at most, JSON escapes included. */
export const MAX_PROVENANCE_BYTES = 900_000;
/** A nested history of the older form is followed so deep, and into entries of so many characters. */
const MAX_DEPTH = 64;
const MAX_NESTED_LENGTH = 32 << 20;

const text = z.record(z.string(), z.string());
const originalSchema = z.object({
  name: z.string(),
  sha256: z.string(),
  metadata: text,
  omitted: z.number().optional(),
});
const stepsSchema = z.object({
  earlier: z.number().int().min(0),
  steps: z.array(
    z.object({ result: z.object({ name: z.string(), sha256: z.string() }), recipe: z.unknown() }),
  ),
});

/** What went before adapters that become inputs, each with the hash of its file. */
export function historyOf(
  inputs: readonly { readonly adapter: Adapter; readonly sha256: string }[],
): History {
  const collected = new Collected();
  for (const { adapter, sha256 } of inputs) {
    collected.add(path.parse(adapter.path).name, sha256, adapter.metadata, 0);
  }
  return collected.history();
}

class Collected {
  readonly #originals = new Map<string, Original>();
  readonly #steps = new Map<string, Step>();
  #earlier = 0;

  /** A file: a result brings its history along, anything else is an original. */
  add(name: string, sha256: string, metadata: ReadonlyMap<string, string>, depth: number): void {
    if (this.#originals.has(sha256) || this.#steps.has(sha256)) return;
    const recipe = metadata.get(recipeKey);
    if (recipe === undefined) {
      const kept = [...metadata].filter(([key]) => !(own as readonly string[]).includes(key));
      this.#originals.set(sha256, { name, sha256, metadata: Object.fromEntries(kept) });
      return;
    }
    const steps = safeParse(stepsSchema, parsed(metadata.get(stepsKey)));
    const inputs = safeParse(z.array(originalSchema), parsed(metadata.get(inputsKey)));
    for (const original of inputs.success ? inputs.data : []) {
      const older = new Map(Object.entries(original.metadata));
      // Older files hold the whole header of every input, with its own inputs inside.
      if (older.has(recipeKey) && depth < MAX_DEPTH)
        this.add(original.name, original.sha256, older, depth + 1);
      else if (older.has(recipeKey)) this.#earlier++;
      else if (!this.#originals.has(original.sha256)) this.#originals.set(original.sha256, original);
    }
    if (steps.success) {
      this.#earlier = Math.max(this.#earlier, steps.data.earlier);
      for (const { result, recipe: of } of steps.data.steps) {
        if (this.#steps.has(result.sha256)) continue;
        this.#steps.set(result.sha256, { result, recipe: withoutPlaces(of ?? null) });
      }
    }
    if (!this.#steps.has(sha256)) {
      this.#steps.set(sha256, { result: { name, sha256 }, recipe: withoutPlaces(parsed(recipe)) });
    }
  }

  history(): History {
    return {
      originals: [...this.#originals.values()],
      steps: [...this.#steps.values()],
      earlier: this.#earlier,
    };
  }
}

/** JSON of a header entry; `null` if it is none, or too long to be looked into. */
function parsed(value: string | undefined): unknown {
  if (value === undefined || value.length > MAX_NESTED_LENGTH) return null;
  try {
    return JSON.parse(value) as unknown;
  } catch {
    return null;
  }
}

/** Levels of a recipe; deeper ones are no recipe's. */
const RECIPE_DEPTH = 8;

/** A recipe with names in place of absolute paths, which older files hold; `null` for what is nested too deep. */
function withoutPlaces(value: unknown, depth = 0): unknown {
  if (depth > RECIPE_DEPTH) return null;
  if (Array.isArray(value)) return value.map((entry: unknown) => withoutPlaces(entry, depth + 1));
  if (typeof value === 'string') return isAbsolute(value) ? nameOf(value) : value;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [key, withoutPlaces(entry, depth + 1)]),
  );
}

const isAbsolute = (value: string): boolean => path.posix.isAbsolute(value) || path.win32.isAbsolute(value);
const nameOf = (value: string): string => value.split(/[\\/]/).filter(Boolean).at(-1) ?? '';

/**
 * A history as header entries of at most `bytes` together: first the oldest steps go and are counted, then the originals'
 * own headers, the largest first, whose size is noted.
 */
export function historyEntries(
  { originals, steps, earlier }: History,
  bytes: number,
): Record<string, string> {
  const sized = steps.map((step) => ({ step, size: headerBytes(JSON.stringify(step)) }));
  let [first, left] = [0, bytes - headerBytes(JSON.stringify(originals))];
  const stepBytes = sized.reduce((sum, { size }) => sum + size, 0);
  // Half of the room belongs to the steps, whatever the headers take.
  const room = Math.max(left, bytes / 2);
  for (let total = stepBytes; total > room && first < sized.length; first++) total -= sized[first]!.size;
  const kept = steps.slice(first);
  const list = { earlier: earlier + first, steps: kept };
  left = bytes - headerBytes(JSON.stringify(list));
  const entries = shortened(originals, left);
  return {
    [inputsKey]: JSON.stringify(entries),
    ...(steps.length + earlier === 0 ? {} : { [stepsKey]: JSON.stringify(list) }),
  };
}

function shortened(originals: readonly Original[], bytes: number): Original[] {
  const entries = originals.map((original) => ({ original, size: headerBytes(JSON.stringify(original)) }));
  let total = entries.reduce((sum, { size }) => sum + size, 0);
  for (const entry of [...entries].sort((a, b) => b.size - a.size)) {
    if (total <= bytes) break;
    const { name, sha256, metadata, omitted = 0 } = entry.original;
    const bare = {
      name,
      sha256,
      metadata: {},
      omitted: omitted + utf8Length(JSON.stringify(metadata)),
    };
    const size = headerBytes(JSON.stringify(bare));
    if (size >= entry.size) continue;
    total -= entry.size - size;
    [entry.original, entry.size] = [bare, size];
  }
  // Only their number could be told of so many.
  while (total > bytes && entries.length > 0) total -= entries.shift()!.size;
  return entries.map(({ original }) => original);
}

/** Bytes that a text takes as a JSON string in a header. */
export function headerBytes(value: string): number {
  return utf8Length(JSON.stringify(value));
}
