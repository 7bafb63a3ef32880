/** What is fuzzed: a kind of file, its seeds, and what the library does with such a file from opening to writing. */
import { EdloraError } from '../../src/errors.ts';
import type { Form } from './mutate/mutate.ts';
import type { Random } from './random.ts';

export interface SeedFile {
  /** Relative to the input's folder; readers look at endings. */
  readonly name: string;
  readonly form: Form;
  readonly bytes: Uint8Array;
}

/** Files that belong together; the first is the one that is opened. */
export type Seed = readonly SeedFile[];

/** One input as the target gets it. */
export interface Input {
  /** Holds the seed's files, some of them damaged. */
  readonly folder: string;
  /** Absolute path of the first one, and its content. */
  readonly file: string;
  readonly bytes: Uint8Array;
  /** An empty folder; emptied after the input. */
  readonly out: string;
  /** For choices of the target, e.g. the scheme to convert to. */
  readonly random: Random;
}

export interface Target {
  /** As `--only` names it. */
  readonly name: string;
  /** Inputs at a time: about half a second's. */
  readonly batch: number;
  /** Whether the target works on `bytes` alone and no file is written. */
  readonly inMemory?: boolean;
  /** Names, keys and values that belong to such files. */
  readonly words?: readonly string[];
  /** The same bytes each time, a few kB at most. */
  seeds(): Promise<readonly Seed[]>;
  /** Make checksums of a damaged file right again, so that readers look further. May give the file back as it is. */
  repair?(file: SeedFile, random: Random): SeedFile;
  /** @throws EdloraError where the input is refused; anything else is a fault */
  run(input: Input): Promise<void>;
}

/** A fault that shows in what the library did rather than in what it threw. */
export class Finding extends Error {
  override name = 'Finding';
}

/** Messages are for people; a longer one repeats the file. */
export const MAX_MESSAGE = 4200;

/** @throws whatever is no proper refusal: other errors, refusals in internal words, messages without end */
export function checkRefusal(error: unknown): void {
  if (!(error instanceof EdloraError)) throw error;
  if (error.message.length > MAX_MESSAGE) {
    throw new Finding(`a message of ${error.message.length} characters: ${error.message.slice(0, 200)}…`, {
      cause: error,
    });
  }
  if (/\binternal:|\[object Object\]|\bundefined\b.*\bundefined\b/.test(error.message)) {
    throw new Finding(`a message in internal words: ${error.message.slice(0, 500)}`, { cause: error });
  }
}

/** The result, or `undefined` where the library refuses; so that a target can go on with its next step. */
export async function attempt<T>(work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    checkRefusal(error);
    return undefined;
  }
}

/** What must work because something before it did. @throws Finding where the library refuses */
export async function expectReadable<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof EdloraError)
      throw new Finding(`${what}: ${error.message.slice(0, 500)}`, { cause: error });
    throw error;
  }
}
