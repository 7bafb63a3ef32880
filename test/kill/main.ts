/**
 * `npm run test:kill`: every command that writes, killed, failed, interrupted and run twice at once, at random and at
 * each of its calls on files; then run again, and compared byte by byte with an undisturbed run.
 *
 *     npm run test:kill -- --minutes 10
 *     npm run test:kill -- --only bake-folder --at rename:2 --how kill     one disturbance again, with what was said
 *
 * Ends with 1 if there are faults. The last line is the sum: `N disturbances, N faults`.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import yargs from 'yargs';
import { packageRoot } from '../../src/package-root.ts';
import { Random } from '../fuzz/random.ts';
import { machine } from '../support/tool-output.ts';
import { type Disturbance, disturbances, KINDS, type Kind, kindOf, shuffled } from './disturbance.ts';
import { copyInputs, type Job, jobs, madeInputs } from './jobs.ts';
import { expectDone, runLine, Trial, type TrialFolders } from './trial.ts';

const args = yargs(process.argv.slice(2))
  .scriptName('npm run test:kill --')
  .usage('$0 [options]')
  .options({
    minutes: { type: 'number', default: 5, describe: 'How long; preparing each command counts' },
    seed: { type: 'number', default: 1, describe: 'Of all choices' },
    only: { type: 'string', array: true, describe: `Commands: ${jobs.map(({ name }) => name).join(', ')}` },
    at: { type: 'string', describe: 'One disturbance: at this call (rename:2) or time (734ms)' },
    how: {
      type: 'string',
      default: 'kill',
      describe:
        'With --at: kill, SIGINT, SIGTERM, SIGHUP, "SIGINT+" (two of them), an errno ("ENOSPC+": from then on), twice, rivals, cache',
    },
    jitter: { type: 'number', default: 0, describe: 'With --at and two at once: seed of their waits' },
    json: { type: 'boolean', default: false, describe: 'One JSON document on standard output' },
  })
  .strict()
  .parseSync();

interface Count {
  disturbances: number;
  faults: number;
  elapsedMs: number;
  /** Came after the end of the run. */
  tooLate: number;
}

interface FoundFault extends Disturbance {
  readonly job: string;
  readonly rule: string;
  readonly what: string;
  readonly place: string;
  readonly repeat: string;
}

const chosen = jobs.filter(({ name }) => args.only === undefined || args.only.includes(name));
const unknown = (args.only ?? []).filter((name) => !jobs.some((job) => job.name === name));
if (unknown.length > 0 || (args.at !== undefined && chosen.length !== 1)) {
  process.stderr.write(
    unknown.length > 0
      ? `unknown command ${unknown.join(', ')}; there are ${jobs.map(({ name }) => name).join(', ')}\n`
      : '--at: expected --only with one command\n',
  );
  process.exit(2);
}

const say = (line: string): void => {
  (args.json ? process.stderr : process.stdout).write(`${line}\n`);
};
const counts = new Map<string, Map<Kind, Count>>();
const faults: FoundFault[] = [];
const start = performance.now();
const root = mkdtempSync(path.join(tmpdir(), 'edlora-kill-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130));

const folders: TrialFolders = {
  program: path.join(packageRoot(), '.build/cli/main.js'),
  inputs: path.join(root, 'inputs'),
  work: path.join(root, 'work'),
};
copyInputs(folders.inputs);
for (const line of madeInputs) {
  expectDone({ name: 'inputs' }, line, await runLine({ ...folders, work: folders.inputs }, line));
}
rmSync(path.join(folders.inputs, 'cache'), { recursive: true, force: true });
mkdirSync(folders.work);

if (args.at === undefined) await runMany();
else
  await disturb(await Trial.prepare(chosen[0]!, folders), { at: args.at, how: args.how }, args.jitter, true);
process.exitCode = report();

async function runMany(): Promise<void> {
  const random = new Random('kill', args.seed);
  const end = start + args.minutes * 60_000;
  const trials = new Map<Job, { trial: Trial; next: Generator<Disturbance> }>();
  let jitter = args.seed * 1000;
  for (;;) {
    for (const job of shuffled(random, chosen)) {
      if (performance.now() > end) return;
      let found = trials.get(job);
      if (found === undefined) {
        const trial = await Trial.prepare(job, folders);
        found = { trial, next: disturbances(new Random('kill', args.seed, job.name), trial) };
        trials.set(job, found);
      }
      await disturb(found.trial, found.next.next().value as Disturbance, jitter++);
    }
  }
}

async function disturb(
  trial: Trial,
  disturbance: Disturbance,
  jitter: number,
  verbose = false,
): Promise<void> {
  const { name } = trial.job;
  const began = performance.now();
  const kind = kindOf(disturbance);
  const outcome = await trial.run(disturbance, jitter);
  const ofJob = counts.get(name) ?? new Map<Kind, Count>();
  counts.set(name, ofJob);
  const count = ofJob.get(kind) ?? { disturbances: 0, faults: 0, elapsedMs: 0, tooLate: 0 };
  ofJob.set(kind, count);
  count.disturbances++;
  count.elapsedMs += performance.now() - began;
  if (!outcome.struck) count.tooLate++;
  if (outcome.faults.length > 0) count.faults++;
  const { at, how } = disturbance;
  const waits = kind === 'two at once' ? ` --jitter ${jitter}` : '';
  const repeat = `npm run test:kill -- --only ${name} --at ${at} --how ${how}${waits}`;
  for (const { rule, what } of outcome.faults) {
    faults.push({ job: name, at, how, rule, what, place: outcome.place, repeat });
    say(`FAULT ${name} ${at} ${how}: ${rule}: ${what}${outcome.place && ` [${outcome.place}]`}`);
  }
  if (outcome.faults.length > 0) say(`  seed ${args.seed}: ${repeat}`);
  if (!verbose) return;
  for (const [i, run] of [...outcome.ended, ...(outcome.again === null ? [] : [outcome.again])].entries()) {
    say(`\nrun ${i + 1}: ${run.code ?? run.signal} after ${Math.round(run.elapsedMs)} ms`);
    if (run.struck !== null) say(`${run.struck.name} ${run.struck.file} [${run.struck.place}]`);
    say(run.err.trimEnd());
  }
}

/** @returns the exit code */
function report(): number {
  const sum = (of: (count: Count) => number): number =>
    [...counts.values()]
      .flatMap((kinds) => [...kinds.values()])
      .reduce((total, count) => total + of(count), 0);
  const rows = [...counts].map(([name, kinds]) => [
    name,
    ...KINDS.map((kind) => String(kinds.get(kind)?.disturbances ?? 0)),
    String([...kinds.values()].reduce((total, { tooLate }) => total + tooLate, 0)),
    `${([...kinds.values()].reduce((total, { elapsedMs }) => total + elapsedMs, 0) / 1000).toFixed(0)} s`,
    String([...kinds.values()].reduce((total, count) => total + count.faults, 0)),
  ]);
  const cells = [['command', ...KINDS, 'too late', 'time', 'faults'], ...rows];
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const table = cells.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
  const [total, found] = [sum(({ disturbances: n }) => n), sum(({ faults: n }) => n)];
  if (args.json) {
    const byCommand = Object.fromEntries(
      [...counts].map(([name, kinds]) => [name, Object.fromEntries(kinds)]),
    );
    const document = {
      seed: args.seed,
      disturbances: total,
      commands: byCommand,
      faults,
      machine: machine(),
    };
    process.stdout.write(
      `${JSON.stringify({ ...document, elapsedMs: performance.now() - start }, null, 2)}\n`,
    );
  } else {
    process.stdout.write(`\n${table.join('\n')}\n\n`);
    const kinds = new Map<string, { count: number; repeat: string }>();
    for (const { rule, what, repeat } of faults) {
      const key = `${rule}: ${what
        .replace(/: error: .*$/s, '')
        .replace(/\.[0-9a-f]{8}-\d+-\d+-[0-9a-f]{12}\./g, '.*.')
        .replaceAll(root, '')}`;
      const entry = kinds.get(key) ?? { count: 0, repeat };
      kinds.set(key, { ...entry, count: entry.count + 1 });
    }
    for (const [what, { count, repeat }] of [...kinds].toSorted(([, a], [, b]) => b.count - a.count)) {
      process.stdout.write(`${count} × ${what}\n    ${repeat}\n`);
    }
  }
  say(`${total} disturbances, ${found} faults`);
  return found === 0 ? 0 : 1;
}
