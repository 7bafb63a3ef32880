/**
 * SDXL at full size, random weights in float16, 1024 × 1024, with --lean: what a pass of its UNet takes in time and memory, beside
 * PyTorch where it is installed (PYTHON names the interpreter); what a step of collecting takes; what solving three
 * rank-16 LoRAs on all their 722 layers takes beside LAPACK. `npm run bench:families`; `-- --only pass,torch,collect,solve`
 * runs parts, each in processes of its own; `--every 7` solves every seventh input alone, sizes of all kinds among them. Rows come as
 * they are measured, a table at the end.
 */
import { fork, spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { printReport } from '../support/tool-output.ts';
import { childOutput } from './child-output.ts';
import { PARTS } from './families-parts.ts';
import { gigabytes, type Row, row, seconds } from './goal-table.ts';
import { ensureRandomLoras } from './random-loras.ts';
import { ensureRandomSdxl } from './random-sdxl.ts';
import { ensureRandomStatistics, SDXL_LORA } from './random-statistics.ts';

const KNOWN = ['pass', 'torch', 'collect', 'linear', 'solve'] as const;
type Known = (typeof KNOWN)[number];

/** One part in a process of its own, weights as they lie in the file. */
function measured<T>(part: string, argument: unknown = {}): Promise<T> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--part', part, JSON.stringify(argument)], {
      env: { ...process.env, EDLORA_LEAN: '1' },
    });
    child.once('message', (message) => resolve(message as T));
    child.once('exit', (code) => reject(new Error(`the part ${part} ended early (exit ${code})`)));
  });
}

const rows: Row[] = [];
function found(what: string, value: string, goal: string, good: boolean): void {
  rows.push(row(what, value, goal, good));
  process.stderr.write(`${what}: ${value} (goal ${goal}: ${good ? 'yes' : 'no'})\n`);
}

interface Passed {
  readonly loadMs: number;
  /** Of the second run. */
  readonly passMs: number;
  readonly cpuMs: number;
  readonly peakBytes: number;
}

async function passRows(compared: boolean): Promise<void> {
  const ours = await measured<Passed>('pass');
  found('load', seconds(ours.loadMs), '–', true);
  found('memory of a pass', gigabytes(ours.peakBytes), '≤ 8 GB', ours.peakBytes <= 8e9);
  if (!compared) {
    found(
      'a pass of the UNet',
      `${seconds(ours.passMs)}, ${seconds(ours.cpuMs)} of the processor`,
      '–',
      true,
    );
    return;
  }
  const python = process.env.PYTHON ?? 'python3';
  const script = path.join(packageRoot(), 'test', 'bench', 'engine.py');
  const folder = await ensureRandomSdxl();
  const theirs = childOutput<{ forwardMs: number[]; cpuMs: number[]; peakBytes: number }>(python, [
    ...[script, folder, '2', '1', String(1024 / 8)],
  ]);
  if (typeof theirs === 'string') {
    found('a pass of the UNet', `${seconds(ours.passMs)}; ${theirs}`, '≥ 1.2 × PyTorch', false);
    return;
  }
  const ratio = theirs.forwardMs[1]! / ours.passMs;
  const value =
    `${seconds(ours.passMs)} : ${seconds(theirs.forwardMs[1]!)}, ${ratio.toFixed(2)} × ` +
    `(processor time ${(theirs.cpuMs[1]! / ours.cpuMs).toFixed(2)} ×)`;
  found('a pass of the UNet, against PyTorch', value, '≥ 1.2 ×', ratio >= 1.2);
  found('memory of PyTorch', gigabytes(theirs.peakBytes), '–', true);
}

async function collectRows(scope: 'attention' | 'linear'): Promise<void> {
  const { stepMs, layers, peakBytes } = await measured<{
    stepMs: number;
    layers: number;
    peakBytes: number;
  }>('collect', { scope });
  const what = `memory of a guided step of collecting, Gram matrices of ${layers} layers`;
  found(what, `${gigabytes(peakBytes)}, ${seconds(stepMs)} with loading`, '≤ 10 GB', peakBytes <= 10e9);
}

async function solveRows(every: number): Promise<void> {
  await ensureRandomLoras(3);
  await ensureRandomStatistics(SDXL_LORA);
  const ours = await measured<{
    elapsedMs: number;
    cpuMs: number;
    systems: [number, number][];
    peakBytes: number;
  }>('solve', { every });
  const what = `factorise and solve the ${ours.systems.length} inputs of three LoRAs`;
  process.stderr.write(`${what}: ${seconds(ours.elapsedMs)}; LAPACK next\n`);
  const script = path.join(packageRoot(), 'test', 'bench', 'solve.py');
  const { status, stdout } = spawnSync(process.env.PYTHON ?? 'python3', [script], {
    input: JSON.stringify(ours.systems),
    encoding: 'utf8',
  });
  if (status === 0) {
    const theirs = JSON.parse(stdout) as { elapsedMs: number; cpuMs: number };
    const ratio = ours.elapsedMs / theirs.elapsedMs;
    const value =
      `${seconds(ours.elapsedMs)} : ${seconds(theirs.elapsedMs)}, ${ratio.toFixed(1)} × ` +
      `(processor time ${(ours.cpuMs / theirs.cpuMs).toFixed(1)} ×)`;
    found(what, value, '≤ 3 × LAPACK', ratio <= 3);
  } else {
    found(what, `${seconds(ours.elapsedMs)}; no torch to compare`, '≤ 3 × LAPACK', false);
  }
  found('its memory', gigabytes(ours.peakBytes), '–', true);
}

function argument(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

if (argument('--part') !== undefined) {
  const part = argument('--part')!;
  process.send!(await PARTS[part]!(argument(part)!));
  process.disconnect();
} else {
  const wanted = argument('--only')?.split(',') ?? [...KNOWN];
  const unknown = wanted.filter((part) => !KNOWN.includes(part as Known));
  if (unknown.length > 0) throw new Error(`--only: expected ${KNOWN.join(', ')}, got ${unknown.join(', ')}`);
  await ensureRandomSdxl();
  if (wanted.includes('pass') || wanted.includes('torch')) await passRows(wanted.includes('torch'));
  if (wanted.includes('collect') || wanted.includes('linear')) await ensureRandomLoras(1);
  if (wanted.includes('collect')) await collectRows('attention');
  if (wanted.includes('linear')) await collectRows('linear');
  if (wanted.includes('solve')) await solveRows(Number(argument('--every') ?? 1));
  printReport({
    title: 'SDXL at full size, random float16 weights, 1024 × 1024, --lean',
    rows: rows.map((each) => ({ ...each })),
    notes: [
      'each part in a process of its own; memory is the most that was resident, pages of mapped files included',
    ],
  });
}
