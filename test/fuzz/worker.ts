/**
 * The process that inputs run in; it may die of them. Started by runner.ts, which sends batches and watches: before each
 * input its index is written into the status file, so that the parent knows what the process died of.
 */
import { openSync, writeSync } from 'node:fs';
import { type Fault, faultOf, Scratch, TOOL_FAULT } from './run-input.ts';
import type { Seed, Target } from './target.ts';

export interface Batch {
  readonly kind: string;
  readonly from: number;
  readonly to: number;
}

export type WorkerMessage =
  | { readonly type: 'ready' }
  | { readonly type: 'fault'; readonly kind: string; readonly index: number; readonly fault: Fault }
  | {
      readonly type: 'done';
      readonly batch: Batch;
      readonly accepted: number;
      readonly elapsedMs: number;
      readonly slowestMs: number;
      readonly slowestIndex: number;
      readonly rssBytes: number;
    };

const [scratchFolder, statusFile, targetsModule, seedText] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
];
const seed = Number(seedText);
const status = openSync(statusFile, 'w');
const scratch = new Scratch(scratchFolder);
const { targets } = (await import(targetsModule)) as { targets: readonly Target[] };
const seedsOf = new Map<Target, readonly Seed[]>();

let current: { kind: string; index: number } | null = null;
let stray: Fault | null = null;
const catchStray = (error: unknown): void => {
  stray = { ...faultOf(error), what: 'unhandled' };
};
process.on('unhandledRejection', catchStray);
process.on('uncaughtException', catchStray);
// The library never prints; what it depends on would, by a warning.
process.on('warning', (warning) => {
  stray ??= { ...faultOf(warning), what: 'printed' };
});

const send = (message: WorkerMessage): void => {
  process.send!(message);
};
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What is at work, as a line of fixed length. */
function note(index: number): void {
  writeSync(status, `${index}`.padEnd(16), 0);
}

async function runBatch(batch: Batch): Promise<void> {
  const target = targets.find(({ name }) => name === batch.kind)!;
  let seeds = seedsOf.get(target);
  if (seeds === undefined) {
    seeds = await target.seeds();
    seedsOf.set(target, seeds);
  }
  const start = performance.now();
  let accepted = 0;
  let slowestMs = 0;
  let slowestIndex = batch.from;
  for (let index = batch.from; index < batch.to; index++) {
    note(index);
    current = { kind: batch.kind, index };
    const verdict = await scratch.run(target, seeds, seed, index);
    // Rejections that nobody waits for are told after the queues are empty.
    await turn();
    if (verdict.accepted) accepted++;
    if (verdict.elapsedMs > slowestMs) [slowestMs, slowestIndex] = [verdict.elapsedMs, index];
    const fault = stray ?? verdict.fault;
    if (fault !== null) send({ type: 'fault', ...current, fault });
    stray = null;
  }
  note(-1);
  current = null;
  send({
    type: 'done',
    batch,
    accepted,
    elapsedMs: performance.now() - start,
    slowestMs,
    slowestIndex,
    rssBytes: process.memoryUsage.rss(),
  });
}

note(-1);
process.on('message', (batch: Batch) => {
  // Seeds and inputs that cannot be made are a fault of this tool: it ends with a stack.
  runBatch(batch).catch((error: unknown) => {
    process.stderr.write(
      `${batch.kind} ${current?.index}: ${error instanceof Error ? error.stack : String(error)}\n`,
    );
    process.exit(TOOL_FAULT);
  });
});
process.on('disconnect', () => process.exit(0));
send({ type: 'ready' });
