/**
 * Fusion at full size: a random-weight SD 1.5 and random rank-4 concepts on all attention linears. What collecting costs
 * over plain forward passes, what solving costs in time and memory, from 3 concepts to 14, and gradient fusion by PyTorch
 * beside it. `npm run bench:fusion`; `-- --steps 20` collects as many steps as a real run (with
 * fewer, the widest layers keep rows); `-- --only collect,stored,many,refine,lapack,lbfgs` runs parts; `-- --size 256` draws the whole fusion's pictures
 * at that size.
 */
import { fork, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FusionEstimate } from '../../src/fusion/estimate.ts';
import { REFINE_DEFAULTS } from '../../src/fusion/refine/refine-options.ts';
import { packageRoot } from '../../src/package-root.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { argument } from './argument.ts';
import { type FusionAsked, MANY, PARTS } from './fusion-parts.ts';
import { gigabytes, type Row, row, seconds } from './goal-table.ts';
import { gradientRows } from './gradient-fusion.ts';
import { ensureRandomConcepts } from './random-concepts.ts';
import { ensureRandomModel } from './random-sd15.ts';
import { ensureRandomStatistics, SD15_CONCEPT } from './random-statistics.ts';

/** One part in a process of its own. */
function measured<T>(part: string, argument: unknown = {}): Promise<T> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--part', part, JSON.stringify(argument)]);
    child.once('message', (message) => resolve(message as T));
    child.once('exit', (code) => reject(new Error(`the part ${part} ended early (exit ${code})`)));
  });
}

async function collectRows(): Promise<Row[]> {
  const plain = await measured<{ stepMs: number; peakBytes: number }>('forward');
  const collected = await measured<{ stepMs: number; peakBytes: number }>('collect');
  const ratio = collected.stepMs / plain.stepMs;
  return [
    row(
      'collecting a step, against the plain pass',
      `${seconds(collected.stepMs)}, ${ratio.toFixed(2)} ×`,
      '≤ 1.15 ×',
      ratio <= 1.15,
    ),
    row('memory of it', gigabytes(collected.peakBytes), '≤ 6 GB', collected.peakBytes <= 6e9),
  ];
}

interface Fused {
  readonly estimate: FusionEstimate;
  readonly elapsedMs: number;
  readonly solveMs: number;
  readonly peakBytes: number;
  readonly files: readonly string[];
}

async function fusionRows({ steps, size: pictures }: Omit<FusionAsked, 'cache'>): Promise<Row[]> {
  const cache = mkdtempSync(path.join(tmpdir(), 'edlora-bench-'));
  const asked: FusionAsked = { cache, steps, size: pictures };
  try {
    const first = await measured<Fused>('fuse', asked);
    const again = await measured<Fused>('fuse', asked);
    const { elapsedMs, memoryBytes } = first.estimate;
    const estimated = elapsedMs ?? Number.NaN;
    const ratio = (told: number, taken: number): string => (told / taken).toFixed(2);
    const size = Math.max(...again.files.map((file) => statSync(file).size));
    return [
      row('solve of its layers', seconds(again.solveMs), '≤ 20 s', again.solveMs <= 20_000),
      row(
        'whole fusion with collection: memory',
        gigabytes(first.peakBytes),
        '≤ 6 GB',
        first.peakBytes <= 6e9,
      ),
      row(`whole fusion with collection, ${steps} steps`, seconds(first.elapsedMs), '–', true),
      row(
        'the estimate of it, time and memory',
        `${ratio(estimated, first.elapsedMs)}, ${ratio(memoryBytes!, first.peakBytes)} of what it took`,
        'within 25 %',
        Math.abs(estimated / first.elapsedMs - 1) <= 0.25,
      ),
      row(
        'whole fusion from stored statistics',
        seconds(again.elapsedMs),
        '≤ 60 s',
        again.elapsedMs <= 60_000,
      ),
      row('its memory', gigabytes(again.peakBytes), '–', true),
      row('statistics of a concept', `${(size / 1e6).toFixed(0)} MB`, '≤ 250 MB', size <= 250e6),
    ];
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
}

/** Solving with everything that is measured for the report, from statistics in the sizes of a whole collection. */
async function solveRows(count: number): Promise<Row[]> {
  const files = [await ensureRandomStatistics(SD15_CONCEPT)];
  const { elapsedMs, peakBytes } = await measured<{ elapsedMs: number; peakBytes: number }>('many', {
    files,
    count,
  });
  const goal = count === MANY ? 60 : 20;
  return [
    row(
      `solve of all layers, ${count} concepts`,
      seconds(elapsedMs),
      `≤ ${goal} s`,
      elapsedMs <= goal * 1000,
    ),
    row('its memory', gigabytes(peakBytes), '≤ 2 GB', peakBytes <= 2e9),
  ];
}

/** What a step of refining costs. */
async function refineRows(): Promise<Row[]> {
  const { predictionMs, peakBytes } = await measured<{ predictionMs: number; peakBytes: number }>('refine');
  return [
    row('refining: a guided prediction with its way back', seconds(predictionMs), '–', true),
    row(`a step of ${REFINE_DEFAULTS.batch}`, seconds(REFINE_DEFAULTS.batch * predictionMs), '–', true),
    row('memory of it', gigabytes(peakBytes), '–', true),
  ];
}

/**
 * Solving, from statistics on disk to factors, and what of it is factorising and solving, beside LAPACK's factorise-and-solve of
 * matrices of the same sizes. The statistics hold random numbers in the sizes of a whole collection: the arithmetic is the same, and
 * nothing is collected.
 */
async function lapackRows(count: number): Promise<Row[]> {
  const files = [await ensureRandomStatistics(SD15_CONCEPT)];
  const ours = await measured<Spent & { systems: [number, number][]; inMemory: Spent }>('solve', {
    files,
    count,
  });
  const script = path.join(packageRoot(), 'test', 'bench', 'solve.py');
  const { status, stdout } = spawnSync(PYTHON, [script], {
    input: JSON.stringify(ours.systems),
    encoding: 'utf8',
  });
  const theirs = status === 0 ? (JSON.parse(stdout) as Spent) : null;
  const beside = (what: string, own: Spent): Row => {
    const of = `${what}: ${ours.systems.length} inputs of ${count} concepts`;
    if (theirs === null)
      return row(of, `${seconds(own.elapsedMs)}; no torch to compare`, '≤ 3 × LAPACK', false);
    const ratio = own.elapsedMs / theirs.elapsedMs;
    const value =
      `${seconds(own.elapsedMs)} : ${seconds(theirs.elapsedMs)}, ${ratio.toFixed(1)} × ` +
      `(processor time ${(own.cpuMs / theirs.cpuMs).toFixed(1)} ×)`;
    return row(of, value, '≤ 3 × LAPACK', ratio <= 3);
  };
  return [beside('from statistics on disk to factors', ours), beside('matrices in memory', ours.inMemory)];
}

interface Spent {
  readonly elapsedMs: number;
  readonly cpuMs: number;
}

/** How busy the machine is with other work: timings of a busy one mean little. */
const load = (): string => readFileSync('/proc/loadavg', 'utf8').split(' ')[0]!;

if (argument('--part') !== undefined) {
  const part = argument('--part')!;
  process.send!(await PARTS[part]!(process.argv[process.argv.indexOf(part) + 1]!));
  process.disconnect();
} else {
  const wanted = argument('--only')?.split(',');
  const known = ['collect', 'stored', 'many', 'refine', 'lapack', 'lbfgs'];
  const unknown = wanted?.filter((part) => !known.includes(part)) ?? [];
  if (unknown.length > 0) throw new Error(`--only: expected ${known.join(', ')}, got ${unknown.join(', ')}`);
  const only = (part: string): boolean => wanted?.includes(part) ?? true;
  const steps = Number(argument('--steps') ?? 2);
  const side = Number(argument('--size') ?? 512);
  const size = { width: side, height: side };
  const before = process.platform === 'linux' ? [`load before: ${load()}`] : [];
  await ensureRandomModel();
  await ensureRandomConcepts(MANY);
  const rows: Row[] = [];
  if (only('collect')) rows.push(...(await collectRows()));
  for (const count of only('lapack') ? [3, MANY] : []) {
    const measured = await lapackRows(count);
    for (const { what, measured: value } of measured) process.stderr.write(`${what}: ${value}\n`);
    rows.push(...measured);
  }
  for (const count of only('many') ? [3, MANY] : []) rows.push(...(await solveRows(count)));
  if (only('refine')) rows.push(...(await refineRows()));
  if (only('stored')) rows.push(...(await fusionRows({ steps, size })));
  const gradient = only('lbfgs') ? await gradientRows() : null;
  rows.push(...(gradient?.rows ?? []));
  printReport({
    title:
      'Fusion at full size: random SD 1.5, rank-4 concepts on all attention linears and the text encoder, 512 × 512',
    rows: rows.map((each) => ({ ...each })),
    notes: [
      `statistics of ${steps} steps, one run each, guided; the layers of width 1280 keep rows until these are as many as inputs`,
      ...(gradient === null ? [] : [gradient.note]),
      ...before,
    ],
  });
}
