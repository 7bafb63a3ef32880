/** One input, from its bytes to a verdict. What the parent alone can see (crashes, hangs) is not judged here. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { EdloraError } from '../../src/errors.ts';
import { type MadeInput, makeInput } from './make-input.ts';
import { checkRefusal, Finding, type Seed, type Target } from './target.ts';

/** What is wrong, in a word for the table and a text for people. */
export interface Fault {
  readonly what:
    | 'error'
    | 'finding'
    | 'files left'
    | 'slow'
    | 'memory'
    | 'unhandled'
    | 'printed'
    | 'hang'
    | 'crash';
  readonly message: string;
  /** Where in the sources it came from; empty if unknown. */
  readonly place: string;
}

export interface Verdict {
  readonly fault: Fault | null;
  /** Whether the target went through without a refusal. */
  readonly accepted: boolean;
  readonly elapsedMs: number;
}

/** Longer than this is a fault, unless the machine was busy (the parent tries again). */
export const MAX_MS = 5000;
/** More memory than this for one input is a fault. */
export const MAX_GROWTH_BYTES = 600 << 20;

/** Exit code of a worker for a fault of this tool itself. */
export const TOOL_FAULT = 70;

/** Folders that inputs are put into and results come out of. */
export class Scratch {
  readonly folder: string;
  readonly #out: string;
  /** Most memory that this process ever had: one input's share is by how much it rises. */
  #highestKb = process.resourceUsage().maxRSS;
  #present: { readonly target: Target; readonly seed: Seed; readonly names: ReadonlySet<string> } | null =
    null;

  constructor(folder: string) {
    this.folder = path.join(folder, 'in');
    this.#out = path.join(folder, 'out');
    mkdirSync(this.folder, { recursive: true });
    mkdirSync(this.#out, { recursive: true });
  }

  /** Run one input. */
  async run(target: Target, seeds: readonly Seed[], seed: number, index: number): Promise<Verdict> {
    return this.judge(target, makeInput(target, seeds, seed, index));
  }

  async judge(target: Target, input: MadeInput): Promise<Verdict> {
    const { files, random } = input;
    if (target.inMemory !== true) this.#place(target, input);
    const file = path.join(this.folder, files[0]!.name);
    const start = performance.now();
    let fault: Fault | null = null;
    let accepted = false;
    try {
      await target.run({ folder: this.folder, file, bytes: files[0]!.bytes, out: this.#out, random });
      accepted = true;
    } catch (error) {
      try {
        checkRefusal(error);
      } catch (wrong) {
        fault = faultOf(wrong);
      }
    }
    const elapsedMs = performance.now() - start;
    const highest = process.resourceUsage().maxRSS;
    const growth = (highest - this.#highestKb) * 1024;
    this.#highestKb = highest;
    fault ??= this.#left(target);
    if (fault === null && elapsedMs > MAX_MS) {
      fault = { what: 'slow', message: `took ${Math.round(elapsedMs)} ms`, place: '' };
    }
    if (growth > MAX_GROWTH_BYTES) {
      fault = { what: 'memory', message: `took ${Math.round(growth / 2 ** 20)} MB`, place: '' };
    }
    return { fault, accepted, elapsedMs };
  }

  #place(target: Target, { seed, files }: MadeInput): void {
    const fresh = this.#present?.seed !== seed || this.#present.target !== target;
    if (fresh) {
      rmSync(this.folder, { recursive: true, force: true });
      for (const { name } of files) {
        mkdirSync(path.join(this.folder, path.dirname(name)), { recursive: true });
      }
    }
    files.forEach((file, i) => {
      // Left alone now, and before: it lies there.
      if (!fresh && file === seed[i] && !this.#damaged.has(i)) return;
      writeFileSync(path.join(this.folder, file.name), file.bytes);
    });
    this.#damaged = new Set(files.flatMap((file, i) => (file === seed[i] ? [] : [i])));
    if (fresh) this.#present = { target, seed, names: new Set(readdirSync(this.folder)) };
  }

  #damaged: ReadonlySet<number> = new Set();

  /** What lies where nothing should; both folders are put in order again. */
  #left(target: Target): Fault | null {
    const made = readdirSync(this.#out).length === 0 ? [] : everythingIn(this.#out);
    const left = made.filter((name) => name.endsWith('.tmp'));
    if (target.inMemory !== true) {
      const names = this.#present!.names;
      left.push(...readdirSync(this.folder).filter((name) => !names.has(name)));
    }
    if (made.length > 0) {
      rmSync(this.#out, { recursive: true, force: true });
      mkdirSync(this.#out);
    }
    if (left.length === 0) return null;
    this.#present = null;
    return { what: 'files left', message: left.slice(0, 5).join(', '), place: '' };
  }
}

function everythingIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true }) as string[];
}

/** An error as a fault, with the first line of ours on its stack; of a finding, on that of the refusal behind it. */
export function faultOf(error: unknown): Fault {
  if (!(error instanceof Error)) {
    return { what: 'error', message: `threw ${String(error)}`.slice(0, 500), place: '' };
  }
  const blamed = error instanceof Finding && error.cause instanceof Error ? error.cause : error;
  const what = error instanceof Finding ? 'finding' : 'error';
  const kind = error instanceof EdloraError || error instanceof Finding ? '' : `${error.name}: `;
  return { what, message: kind + error.message.slice(0, 1000), place: placeOf(blamed) };
}

/** The first of our own lines on a stack, with the function. */
function placeOf({ stack = '' }: Error): string {
  const line = /^ +at (?:async )?(?:(.+) \()?.*?((?:src|cli)\/[\w./-]+\.[jt]s:\d+)/m.exec(stack);
  return line === null ? '' : `${line[2]}${line[1] === undefined ? '' : ` ${line[1]}`}`;
}
