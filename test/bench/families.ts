/**
 * SDXL at full size, random weights in float16, 1024 × 1024, with --lean: what a pass of its UNet takes in time and memory, beside
 * PyTorch in float32 where it is installed (PYTHON names the interpreter); what a step of collecting takes, and one of training; what solving three
 * rank-16 LoRAs on all their 722 layers takes beside LAPACK. `npm run bench:families`; `-- --only pass,torch,collect,train,ed-lora,solve`
 * runs parts, each in processes of its own; `wide` is a pass without --lean, which takes 12 GB, `bfloat16` PyTorch’s in half of the
 * digits; `--every 7` solves every seventh input alone, sizes of all kinds among them. Rows come as they are measured, a table at the
 * end.
 */
import { fork, spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { argument } from './argument.ts';
import { childOutput } from './child-output.ts';
import { PARTS } from './families-parts.ts';
import { gigabytes, type Row, row, seconds } from './goal-table.ts';
import { ensureRandomLoras } from './random-loras.ts';
import { ensureRandomSdxl } from './random-sdxl.ts';
import { ensureRandomStatistics, SDXL_LORA } from './random-statistics.ts';

const KNOWN = [
  'pass',
  'wide',
  'torch',
  'bfloat16',
  'collect',
  'linear',
  'train',
  'ed-lora',
  'solve',
] as const;
type Known = (typeof KNOWN)[number];

/** One part in a process of its own; lean: weights as they lie in the file. */
function measured<T>(part: string, argument: unknown = {}, lean = true): Promise<T> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--part', part, JSON.stringify(argument)], {
      env: { ...process.env, EDLORA_LEAN: lean ? '1' : '0' },
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

/** Passes by PyTorch, in numbers of a type; or why there are none. */
async function torchPass(dtype: 'float32' | 'bfloat16'): Promise<Passed | string> {
  const script = path.join(packageRoot(), 'test', 'bench', 'engine.py');
  const theirs = childOutput<{ loadMs: number; forwardMs: number[]; cpuMs: number[]; peakBytes: number }>(
    PYTHON,
    [script, await ensureRandomSdxl(), '2', '1', String(1024 / 8), dtype],
  );
  if (typeof theirs === 'string') return theirs;
  const { loadMs, forwardMs, cpuMs, peakBytes } = theirs;
  return { loadMs, passMs: forwardMs[1]!, cpuMs: cpuMs[1]!, peakBytes };
}

/** The passes that are wanted, ours first: each beside PyTorch's in float32, where that is among them. */
async function passRows(wanted: readonly string[]): Promise<void> {
  const passes: [what: string, passed: Passed][] = [];
  const told = (what: string, { passMs, cpuMs, loadMs, peakBytes }: Passed, most: number): void => {
    const value = `${seconds(passMs)}, ${seconds(cpuMs)} of the processor; load ${seconds(loadMs)}`;
    found(what, value, '–', true);
    const goal = Number.isFinite(most) ? `≤ ${gigabytes(most)}` : '–';
    found(`memory of it`, gigabytes(peakBytes), goal, peakBytes <= most);
  };
  for (const lean of [true, false]) {
    if (!wanted.includes(lean ? 'pass' : 'wide')) continue;
    const what = lean ? 'a pass of the UNet' : 'a pass of the UNet without --lean';
    const passed = await measured<Passed>('pass', {}, lean);
    passes.push([what, passed]);
    told(what, passed, lean ? 8e9 : Number.POSITIVE_INFINITY);
  }
  for (const dtype of ['float32', 'bfloat16'] as const) {
    if (!wanted.includes(dtype === 'float32' ? 'torch' : dtype)) continue;
    const theirs = await torchPass(dtype);
    if (typeof theirs === 'string') {
      found(`PyTorch in ${dtype}`, theirs, '–', false);
      continue;
    }
    told(`PyTorch in ${dtype}`, theirs, Number.POSITIVE_INFINITY);
    for (const [what, ours] of passes) {
      const ratio = theirs.passMs / ours.passMs;
      const value = `${ratio.toFixed(2)} × (processor time ${(theirs.cpuMs / ours.cpuMs).toFixed(2)} ×)`;
      const goal = dtype === 'float32' ? '≥ 1.2 ×' : '–';
      found(`${what}, against PyTorch in ${dtype}`, value, goal, goal === '–' || ratio >= 1.2);
    }
  }
}

async function collectRows(scope: 'attention' | 'linear'): Promise<void> {
  const { stepMs, layers, peakBytes } = await measured<{
    stepMs: number;
    layers: number;
    peakBytes: number;
  }>('collect', { scope });
  const what = `memory of a guided step of collecting, Gram matrices of ${layers} layers`;
  found(what, `${gigabytes(peakBytes)}, ${seconds(stepMs)}`, '≤ 10 GB', peakBytes <= 10e9);
}

async function trainRow(method: 'lora' | 'ed-lora'): Promise<void> {
  const { stepMs, peakBytes } = await measured<{ stepMs: number; peakBytes: number }>('train', { method });
  const what = `memory of a training step, ${method} on all attentions, blocks computed twice`;
  found(what, `${gigabytes(peakBytes)}, ${seconds(stepMs)}`, '≤ 16 GB', peakBytes <= 16e9);
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
  const { status, stdout } = spawnSync(PYTHON, [script], {
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

if (argument('--part') !== undefined) {
  const part = argument('--part')!;
  process.send!(await PARTS[part]!(argument(part)!));
  process.disconnect();
} else {
  const wanted = argument('--only')?.split(',') ?? [...KNOWN];
  const unknown = wanted.filter((part) => !KNOWN.includes(part as Known));
  if (unknown.length > 0) throw new Error(`--only: expected ${KNOWN.join(', ')}, got ${unknown.join(', ')}`);
  await ensureRandomSdxl();
  await passRows(wanted);
  if (wanted.includes('collect') || wanted.includes('linear')) await ensureRandomLoras(1);
  if (wanted.includes('collect')) await collectRows('attention');
  if (wanted.includes('linear')) await collectRows('linear');
  if (wanted.includes('train')) await trainRow('lora');
  if (wanted.includes('ed-lora')) await trainRow('ed-lora');
  if (wanted.includes('solve')) await solveRows(Number(argument('--every') ?? 1));
  printReport({
    title: 'SDXL at full size, random float16 weights, 1024 × 1024, --lean',
    rows: rows.map((each) => ({ ...each })),
    notes: [
      'each part in a process of its own; memory is the most that was resident, pages of mapped files included',
    ],
  });
}
