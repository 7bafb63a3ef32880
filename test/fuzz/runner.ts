/**
 * Hands batches of inputs to worker processes and watches them: a process that dies, stands still or takes too much
 * memory is a fault of the input at work, and another process goes on behind it.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Fault, MAX_GROWTH_BYTES, MAX_MS, TOOL_FAULT } from './run-input.ts';
import type { Target } from './target.ts';
import type { Batch, WorkerMessage } from './worker.ts';

export interface FuzzOptions {
  readonly targets: readonly Target[];
  /** Path or URL of the module that exports them, for the workers. */
  readonly targetsModule: string;
  readonly seed: number;
  /** First index of every kind. */
  readonly from?: number;
  /** Inputs of all kinds together; default: as many as the time allows. */
  readonly inputs?: number;
  readonly minutes?: number;
  /** Worker processes. Default 1. */
  readonly jobs?: number;
  /** Standing still for this long, an input is tried once more by itself; if it stands still again, it is a fault. */
  readonly stallMs?: number;
  readonly onFault?: (fault: FoundFault) => void;
}

export interface FoundFault extends Fault {
  readonly kind: string;
  /** The first input with it. */
  readonly index: number;
  /** Inputs with it. */
  count: number;
}

export interface KindResult {
  readonly kind: string;
  inputs: number;
  /** Inputs that went through without a refusal. */
  accepted: number;
  faults: number;
  elapsedMs: number;
  slowestMs: number;
  slowestIndex: number;
}

export interface FuzzResult {
  readonly seed: number;
  readonly kinds: readonly KindResult[];
  /** Different ones; `count` says how many inputs had each. */
  readonly faults: readonly FoundFault[];
  readonly inputs: number;
  readonly elapsedMs: number;
}

/** V8's own heap; buffers lie outside of it and are watched. */
const HEAP_MB = 768;
/** A worker with more than this is exchanged between two batches. */
const TIRED_RSS_BYTES = 450 << 20;
const POLL_MS = 50;

/** Batches in turn over the kinds, until inputs or time run out. */
class Queue {
  readonly #options: FuzzOptions;
  readonly #next = new Map<string, number>();
  readonly #end: number;
  #left: number;
  #turn = 0;

  constructor(options: FuzzOptions) {
    this.#options = options;
    this.#left = options.inputs ?? Number.POSITIVE_INFINITY;
    this.#end = performance.now() + (options.minutes ?? Number.POSITIVE_INFINITY) * 60_000;
  }

  next(): Batch | null {
    const { targets, from: first = 0 } = this.#options;
    if (this.#left <= 0 || performance.now() >= this.#end) return null;
    const { name: kind, batch } = targets[this.#turn++ % targets.length]!;
    const from = this.#next.get(kind) ?? first;
    const to = from + Math.min(batch, this.#left);
    this.#next.set(kind, to);
    this.#left -= to - from;
    return { kind, from, to };
  }
}

/** Faults of one cause come from one place, or look alike but for numbers, names and paths. */
function signature(kind: string, { what, message, place }: Fault): string {
  const form = message.replace(/"[^"]*"|'[^']*'|\S*\/\S*|<[^>]*>|-?[\d.]+(e[+-]?\d+)?/g, '…').slice(0, 80);
  return `${kind}|${what}|${place === '' ? form : place}`;
}

/** Run. @throws {Error} if a worker cannot start, or a target's seeds cannot be made */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const start = performance.now();
  const kinds = new Map<string, KindResult>(
    options.targets.map(({ name }) => [
      name,
      { kind: name, inputs: 0, accepted: 0, faults: 0, elapsedMs: 0, slowestMs: 0, slowestIndex: 0 },
    ]),
  );
  const faults = new Map<string, FoundFault>();
  const onFault = (kind: string, index: number, fault: Fault): void => {
    kinds.get(kind)!.faults++;
    const key = signature(kind, fault);
    const known = faults.get(key);
    if (known !== undefined) known.count++;
    else {
      const found = { ...fault, kind, index, count: 1 };
      faults.set(key, found);
      options.onFault?.(found);
    }
  };
  const queue = new Queue(options);
  const memory = existsAsFolder('/dev/shm') ? '/dev/shm' : tmpdir();
  const folder = mkdtempSync(path.join(memory, 'edlora-fuzz-'));
  try {
    await Promise.all(
      Array.from({ length: options.jobs ?? 1 }, (_, i) =>
        work(options, path.join(folder, String(i)), queue, kinds, onFault),
      ),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const results = [...kinds.values()];
  return {
    seed: options.seed,
    kinds: results,
    faults: [...faults.values()],
    inputs: results.reduce((sum, { inputs }) => sum + inputs, 0),
    elapsedMs: performance.now() - start,
  };
}

function existsAsFolder(folder: string): boolean {
  return statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** One worker's share, over as many processes as it takes. */
async function work(
  options: FuzzOptions,
  folder: string,
  queue: Queue,
  kinds: ReadonlyMap<string, KindResult>,
  onFault: (kind: string, index: number, fault: Fault) => void,
): Promise<void> {
  let worker: Worker | null = null;
  try {
    for (let batch = queue.next(); batch !== null; ) {
      worker ??= await Worker.start(options, folder);
      const began = performance.now();
      const outcome: Outcome = await worker.run(batch, onFault);
      const result = kinds.get(batch.kind)!;
      if (outcome.died === null) {
        const { accepted, elapsedMs, slowestMs, slowestIndex, rssBytes } = outcome.done;
        result.inputs += batch.to - batch.from;
        result.accepted += accepted;
        result.elapsedMs += elapsedMs;
        if (slowestMs > result.slowestMs) [result.slowestMs, result.slowestIndex] = [slowestMs, slowestIndex];
        if (rssBytes > TIRED_RSS_BYTES) {
          await worker.stop();
          worker = null;
        }
        batch = queue.next();
        continue;
      }
      worker = null;
      const { index, fault } = outcome.died;
      result.inputs += index + 1 - batch.from;
      result.elapsedMs += performance.now() - began;
      const busy =
        fault.what === 'hang' &&
        (await passesAlone(options, folder, { ...batch, from: index, to: index + 1 }));
      if (!busy) onFault(batch.kind, index, fault);
      batch = index + 1 < batch.to ? { ...batch, from: index + 1 } : queue.next();
    }
  } finally {
    await worker?.stop();
  }
}

/** Whether an input that stood still ends by itself in a process of its own: then the machine was busy. */
async function passesAlone(options: FuzzOptions, folder: string, batch: Batch): Promise<boolean> {
  const worker = await Worker.start(options, folder);
  const { died } = await worker.run(batch, () => undefined);
  if (died === null) await worker.stop();
  return died === null;
}

type Outcome =
  | { readonly done: Extract<WorkerMessage, { type: 'done' }>; readonly died: null }
  | { readonly died: { readonly index: number; readonly fault: Fault } };

class Worker {
  readonly #child: ChildProcess;
  readonly #status: string;
  readonly #stallMs: number;
  #errors = '';
  #exit: { code: number | null; signal: string | null } | null = null;

  private constructor(child: ChildProcess, status: string, stallMs: number) {
    this.#stallMs = stallMs;
    this.#child = child;
    this.#status = status;
    child.stderr!.on('data', (chunk: Buffer) => {
      this.#errors = (this.#errors + chunk.toString()).slice(-4000);
    });
    child.on('exit', (code, signal) => {
      this.#exit = { code, signal };
    });
  }

  static async start(
    { targetsModule, seed, stallMs = MAX_MS }: FuzzOptions,
    folder: string,
  ): Promise<Worker> {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const status = path.join(folder, 'status');
    const child = fork(
      path.join(import.meta.dirname, 'worker.js'),
      [folder, status, targetsModule, String(seed)],
      {
        execArgv: [`--max-old-space-size=${HEAP_MB}`, '--stack-trace-limit=60'],
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        env: { ...process.env, EDLORA_CACHE: path.join(folder, 'cache'), TMPDIR: folder },
        serialization: 'json',
      },
    );
    const worker = new Worker(child, status, stallMs);
    await new Promise<void>((resolve, reject) => {
      child.once('message', () => resolve());
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`the worker did not start: ${worker.#errors}`)));
    });
    return worker;
  }

  /** Run a batch; the process is gone if the outcome says that it died. */
  run(batch: Batch, onFault: (kind: string, index: number, fault: Fault) => void): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const child = this.#child;
      let [seenIndex, since] = [this.#index(), performance.now()];
      let [rssBefore, rssLast] = [this.#rss(), 0];
      let killedFor: Fault | null = null;
      const kill = (fault: Fault): void => {
        killedFor = fault;
        child.kill('SIGKILL');
      };
      const watch = setInterval(() => {
        const [index, rss] = [this.#index(), this.#rss()];
        if (index !== seenIndex) {
          [seenIndex, since] = [index, performance.now()];
          if (rssLast > 0) rssBefore = rssLast;
        }
        rssLast = rss;
        if (killedFor !== null || index < 0) return;
        const stillMs = performance.now() - since;
        if (rss - rssBefore > MAX_GROWTH_BYTES) {
          kill({ what: 'memory', message: `took ${Math.round((rss - rssBefore) / 2 ** 20)} MB`, place: '' });
        } else if (stillMs > this.#stallMs) {
          kill({ what: 'hang', message: `no end after ${(stillMs / 1000).toFixed(1)} s`, place: '' });
        }
      }, POLL_MS);
      const settle = (): void => {
        clearInterval(watch);
        child.off('message', onMessage);
        child.off('exit', onExit);
      };
      const onMessage = (message: WorkerMessage): void => {
        if (message.type === 'fault') onFault(message.kind, message.index, message.fault);
        if (message.type === 'done') {
          settle();
          resolve({ done: message, died: null });
        }
      };
      const onExit = (code: number | null, signal: string | null): void => {
        settle();
        const index = this.#index();
        if (index < 0 || code === TOOL_FAULT) {
          reject(new Error(`${batch.kind}: the worker ended (${code ?? signal}): ${this.#errors}`));
          return;
        }
        const last = this.#errors.split('\n').find((line) => /FATAL|Error|abort|terminate/i.test(line)) ?? '';
        const crash = { what: 'crash', message: `ended with ${code ?? signal}: ${last}`, place: '' } as const;
        resolve({ died: { index, fault: killedFor ?? crash } });
      };
      child.on('message', onMessage);
      child.on('exit', onExit);
      if (this.#exit !== null) onExit(this.#exit.code, this.#exit.signal);
      else child.send(batch);
    });
  }

  async stop(): Promise<void> {
    if (this.#exit !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
  }

  /** The input at work; -1 between batches. */
  #index(): number {
    try {
      return Number(readFileSync(this.#status, 'latin1') || -1);
    } catch {
      return -1;
    }
  }

  /** Resident memory, bytes; 0 where the system does not tell. */
  #rss(): number {
    try {
      return Number(readFileSync(`/proc/${this.#child.pid}/statm`, 'latin1').split(' ')[1]) * 4096;
    } catch {
      return 0;
    }
  }
}
