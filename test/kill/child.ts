/** One run of a program, with or without a disturbance. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';

/** A run that takes longer hangs. */
const HANG_MS = 60_000;

const preload = path.join(packageRoot(), 'test/kill/preload.cjs');

/** What is done to a run. */
export interface Blow {
  /** `kind:number` of a call, or milliseconds after the start. */
  readonly at: string | number;
  /** `kill`, a signal, or (at a call) an errno, with a "+" for good. */
  readonly how: string;
}

export interface RunRequest {
  /** Script and arguments. */
  readonly argv: readonly string[];
  /** The current folder; calls below it are counted. */
  readonly folder: string;
  readonly env?: Readonly<Record<string, string>>;
  /** A folder below which opening to read is counted as well. */
  readonly reads?: string;
  readonly blow?: Blow;
  /** Seed of waits before calls. */
  readonly jitter?: number;
  /** Longer is a hang. Default a minute. */
  readonly hangMs?: number;
}

export interface Call {
  /** `kind:number` */
  readonly name: string;
  readonly file: string;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly err: string;
  readonly elapsedMs: number;
  readonly hung: boolean;
  readonly calls: readonly Call[];
  /** The disturbed call, if it came to that, and the frames of this project that led there. */
  readonly struck: (Call & { readonly place: string }) | null;
}

let runs = 0;

/** Start, disturb, and wait for the end. */
export async function runChild({
  argv,
  folder,
  env = {},
  reads,
  blow,
  jitter,
  hangMs = HANG_MS,
}: RunRequest): Promise<Ended> {
  const log = `${folder}.calls-${process.pid}-${runs++}`;
  const start = performance.now();
  const child = spawn(process.execPath, ['--require', preload, ...argv], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      NO_COLOR: '1',
      ...env,
      KILL_WATCH: folder,
      KILL_LOG: log,
      KILL_READ: reads,
      ...(typeof blow?.at === 'string' ? { KILL_AT: blow.at, KILL_HOW: blow.how } : {}),
      KILL_JITTER: String(jitter),
    },
  });
  let [out, err, hung] = ['', '', false];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const timers = [
    setTimeout(() => {
      hung = true;
      child.kill('SIGKILL');
    }, hangMs),
  ];
  if (typeof blow?.at === 'number') {
    const { at, how } = blow;
    timers.push(setTimeout(() => child.kill(how === 'kill' ? 'SIGKILL' : (how as NodeJS.Signals)), at));
  }
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (...ended) => resolve(ended));
  });
  for (const timer of timers) clearTimeout(timer);
  const elapsedMs = performance.now() - start;
  const { calls, struck } = readLog(log);
  return { code, signal, out, err, elapsedMs, hung, calls, struck };
}

function readLog(log: string): Pick<Ended, 'calls' | 'struck'> {
  const calls: Call[] = [];
  let struck: Ended['struck'] = null;
  if (!existsSync(log)) return { calls, struck };
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const [name = '', text = ''] = line.split('\t');
    if (name === '#') struck = { ...calls.at(-1)!, place: placeIn(JSON.parse(text) as string) };
    else if (name !== '') calls.push({ name, file: text });
  }
  rmSync(log, { force: true });
  return { calls, struck };
}

/** `fn (src/io/x.js:12)` of the innermost frames within the project. */
function placeIn(stack: string): string {
  return [
    ...stack.matchAll(/at (?:async )?(?:(\S+) )?\(?(?:file:\/\/)?\S*?\/((?:src|cli)\/\S+?:\d+):\d+\)?/g),
  ]
    .slice(0, 3)
    .map(([, name, place]) => (name === undefined ? place : `${name} (${place})`))
    .join(' < ');
}
