/**
 * `npm run test:fuzz`: damaged files of every kind that is read, against everything the library does with them.
 *
 *     npm run test:fuzz -- --minutes 5
 *     npm run test:fuzz -- --only scene --seed 7 --at 12345     one input again, with the stack of its error
 *
 * Ends with 1 if there are faults. The last line is the sum: `N inputs, N faults`.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import yargs from 'yargs';
import { machine } from '../support/tool-output.ts';
import { makeInput } from './make-input.ts';
import { Scratch } from './run-input.ts';
import { type FoundFault, type FuzzResult, fuzz } from './runner.ts';
import type { Target } from './target.ts';

/** Where the kinds come from: this tool's own tests bring others. */
const given = process.argv.indexOf('--targets');
const targetsModule =
  given < 0
    ? new URL('./targets/index.js', import.meta.url).href
    : pathToFileURL(process.argv[given + 1]!).href;
const { targets } = (await import(targetsModule)) as { targets: readonly Target[] };

const args = yargs(process.argv.slice(2))
  .scriptName('npm run test:fuzz --')
  .usage('$0 [options]')
  .options({
    minutes: { type: 'number', describe: 'How long [default: 1, unless --inputs is given]' },
    inputs: { type: 'number', describe: 'How many inputs of all kinds together' },
    seed: { type: 'number', default: 1, describe: 'Of all choices: the same seed, the same inputs' },
    only: { type: 'string', array: true, describe: `Kinds: ${targets.map(({ name }) => name).join(', ')}` },
    from: { type: 'number', default: 0, describe: 'First index of every kind' },
    at: {
      type: 'number',
      describe: 'Run this one input of the kind in this process, and show its error in full',
    },
    keep: { type: 'string', describe: 'Folder for the first input of each fault' },
    jobs: { type: 'number', default: 1, describe: 'Processes' },
    targets: { type: 'string', hidden: true },
    stall: { type: 'number', hidden: true },
    json: { type: 'boolean', default: false, describe: 'One JSON document on standard output' },
  })
  .strict()
  .parseSync();

const chosen = targets.filter(({ name }) => args.only === undefined || args.only.includes(name));
const unknown = (args.only ?? []).filter((name) => !targets.some((target) => target.name === name));
if (unknown.length > 0 || chosen.length === 0) {
  process.stderr.write(
    `unknown kind ${unknown.join(', ')}; there are ${targets.map(({ name }) => name).join(', ')}\n`,
  );
  process.exit(2);
}

process.exitCode = args.at === undefined ? await runMany() : await runOne(chosen[0]!, args.at);

async function runMany(): Promise<number> {
  const say = (line: string): void => {
    (args.json ? process.stderr : process.stdout).write(`${line}\n`);
  };
  const minutes = args.minutes ?? (args.inputs === undefined ? 1 : undefined);
  const faulty: FoundFault[] = [];
  const result = await fuzz({
    targets: chosen,
    targetsModule,
    stallMs: args.stall,
    seed: args.seed,
    from: args.from,
    jobs: args.jobs,
    inputs: args.inputs,
    minutes,
    onFault: (fault) => {
      faulty.push(fault);
      say(
        `FAULT ${fault.kind} ${fault.index}: ${fault.what}: ${oneLine(fault.message)}${fault.place && ` (${fault.place})`}`,
      );
      say(`  npm run test:fuzz -- --only ${fault.kind} --seed ${args.seed} --at ${fault.index}`);
    },
  });
  for (const { kind, index } of args.keep === undefined ? [] : faulty) await keep(args.keep!, kind, index);
  const total = result.kinds.reduce((sum, { faults }) => sum + faults, 0);
  if (args.json) process.stdout.write(`${JSON.stringify({ ...result, machine: machine() }, null, 2)}\n`);
  else process.stdout.write(`\n${tableOf(result)}\n`);
  say(`${result.inputs} inputs, ${total} faults`);
  return total === 0 ? 0 : 1;
}

/** Files that a fault was found with, one folder per input. */
async function keep(folder: string, kind: string, index: number): Promise<void> {
  const target = targets.find(({ name }) => name === kind)!;
  for (const { name, bytes } of makeInput(target, await target.seeds(), args.seed, index).files) {
    const file = path.join(folder, `${kind}-${args.seed}-${index}`, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, bytes);
  }
}

async function runOne(target: Target, index: number): Promise<number> {
  if (args.keep !== undefined) await keep(args.keep, target.name, index);
  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-fuzz-'));
  try {
    const scratch = new Scratch(folder);
    const traced: Target = {
      ...target,
      run: async (input) => {
        try {
          await target.run(input);
        } catch (error) {
          process.stdout.write(
            `${visible(error instanceof Error ? (error.stack ?? '') : String(error))}\n\n`,
          );
          throw error;
        }
      },
    };
    const { fault, accepted, elapsedMs } = await scratch.run(traced, await target.seeds(), args.seed, index);
    const outcome = accepted ? 'accepted' : 'refused';
    process.stdout.write(
      `${target.name} ${index}: ${fault === null ? outcome : `FAULT, ${fault.what}`}, ${Math.round(elapsedMs)} ms\n`,
    );
    process.stdout.write(`1 inputs, ${fault === null ? 0 : 1} faults\n`);
    return fault === null ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Text of damaged files, fit for a terminal. */
function visible(text: string): string {
  return text.replace(/[^\n\x20-\x7e\u00a1-\u2027\u2030-\u205f]/gu, '·').slice(0, 4000);
}

function oneLine(text: string): string {
  return visible(text).replace(/\s+/g, ' ');
}

function tableOf({ kinds, faults, elapsedMs }: FuzzResult): string {
  const rows = kinds.map((kind) => [
    kind.kind,
    String(kind.inputs),
    `${((100 * kind.accepted) / Math.max(1, kind.inputs)).toFixed(1)} %`,
    `${Math.round((1000 * kind.inputs) / Math.max(1, kind.elapsedMs))}/s`,
    `${Math.round(kind.slowestMs)} ms (${kind.slowestIndex})`,
    String(kind.faults),
  ]);
  const inputs = kinds.reduce((sum, kind) => sum + kind.inputs, 0);
  rows.push(['all', String(inputs), '', `${Math.round((1000 * inputs) / elapsedMs)}/s`, '', '']);
  const cells = [['kind', 'inputs', 'accepted', 'rate', 'slowest', 'faults'], ...rows];
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const lines = cells.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
  const found = faults
    .toSorted((a, b) => b.count - a.count)
    .map(
      ({ kind, what, message, place, index, count }) =>
        `${count} × ${kind} ${index}: ${what}: ${oneLine(message).slice(0, 200)} ${place}`,
    );
  return [...lines, '', ...found].join('\n');
}
