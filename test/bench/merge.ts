/**
 * Merging at full size: three rank-32 LoRAs of SD 1.5 into one, recompression of a rank-128 sum, and baking into
 * checkpoints of 2 GB (float16) and 4 GB (float32); `-- --only merge,rank,bake` runs parts. One process each, start-up included; beside Python with PEFT where
 * present (PYTHON names the interpreter), beside the shortest script with torch, and beside copying the checkpoint.
 * Whole processes are run in turn and the best of each is compared: what else the machine does then weighs less. Of
 * copying and baking the medians: how quickly a disk takes bytes varies several times over, and luck is no speed.
 */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
} from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import path from 'node:path';
import { writeAdapter } from '../../src/adapters/write.ts';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { memoryTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { truncateWith } from '../../src/linalg/low-rank-async.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { openModelFiles } from '../../src/merging/model-files.ts';
import { packageRoot } from '../../src/package-root.ts';
import { GraphMatmulEngine } from '../../src/runtime/matmul-engine.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { benchCache } from './random-model.ts';
import { ensureRandomModel } from './random-sd15.ts';

const RANK = 32;
const SUM_RANK = 128;
const ADAPTERS = 3;
/** Runs of a whole process. */
const ROUNDS = 3;
/** Layers of each shape that are cut. */
const LAYER_RUNS = 8;
/** Runs of copying and of baking. */
const DISK_ROUNDS = 3;

type Module = {
  readonly component: 'unet' | 'text_encoder';
  readonly layerName: string;
  readonly shape: readonly number[];
};

/** What sd-scripts trains by default: attention, feed-forward and projections of UNet and text encoder. */
async function trainableLayers(model: string): Promise<Module[]> {
  const { weights } = await openModelFiles(model);
  return [...weights].flatMap(([id, { shape }]) => {
    const [component, layerName] = id.split(':') as ['unet' | 'text_encoder', string];
    const trained =
      component === 'unet'
        ? /\.attentions\.\d+\.(proj_|.*\.(to_|ff\.))/.test(layerName)
        : /\.(self_attn|mlp)\./.test(layerName);
    return trained && shape.length >= 2 ? [{ component, layerName, shape }] : [];
  });
}

async function writeRandomAdapter(file: string, layers: readonly Module[], seed: number): Promise<void> {
  const generator = new TorchGenerator(seed);
  const draw = (shape: readonly number[]): RawTensor =>
    memoryTensor(
      'random',
      'F16',
      shape,
      encodeFloat(
        generator.rand(
          shape.reduce((a, b) => a * b, 1),
          -0.05,
          0.05,
        ),
        'F16',
      ),
    );
  await writeAdapter(file, 'kohya', {
    architecture: 'sd1',
    words: [],
    title: path.basename(file),
    layers: layers.map(({ component, layerName, shape }) => {
      const conv = shape.length === 4;
      return {
        component,
        layerName,
        kind: 'lora' as const,
        up: draw(conv ? [shape[0]!, RANK, 1, 1] : [shape[0]!, RANK]),
        down: draw(conv ? [RANK, shape[1]!, 1, 1] : [RANK, shape[1]!]),
        mid: null,
        rank: RANK,
        scale: 0.5,
        kernel: conv ? ([1, 1] as const) : null,
        doraScale: null,
        biasDiff: null,
      };
    }),
  });
}

interface Timed {
  readonly ms: number;
  /** Of all threads: says something beside other work too. */
  readonly cpuMs: number;
  readonly output: string;
}

/** Run a process; the last line of its output. @throws {Error} with its messages if it fails */
function timed(command: string, args: readonly string[]): Timed {
  const start = performance.now();
  // The shell's own account of its children: their user and system time in the last line.
  const accounted = ['-c', '"$@"; status=$?; times >&2; exit $status', 'sh', command, ...args];
  const { status, stdout, stderr, error } = spawnSync('sh', accounted, {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (error !== undefined) throw error;
  const messages = stderr.trim().split('\n');
  if (status !== 0) throw new Error(`${command} ${args[0]}: ${messages.at(-3)}`);
  const cpuMs = [...messages.at(-1)!.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + 60_000 * Number(minutes) + 1000 * Number(seconds),
    0,
  );
  return { ms: performance.now() - start, cpuMs, output: stdout.trim().split('\n').at(-1)! };
}

const script = path.join(packageRoot(), 'test', 'bench', 'merge.py');
const edlora = path.join(packageRoot(), '.build', 'cli', 'main.js');

function tryPython(args: readonly string[]): Timed | string {
  try {
    return timed(PYTHON, [script, ...args]);
  } catch (error) {
    return `${PYTHON} without torch and safetensors, or it failed (${(error as Error).message})`;
  }
}

const ratio = (ours: number, theirs: number | null): string | null =>
  theirs === null ? null : `${(theirs / ours).toFixed(1)} ×`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

interface LayerTimes {
  readonly ms: number;
  readonly cpuMs: number;
}

/** Time of one layer of each shape: the mean of several. */
async function recompress(shapes: readonly (readonly [number, number])[]): Promise<LayerTimes[]> {
  const generator = new TorchGenerator(1);
  const random = (rows: number, cols: number) => matrix(rows, cols, generator.randnFloat64(rows * cols));
  const engine = new GraphMatmulEngine();
  // Once unmeasured, so that the functions are compiled.
  await truncateWith({ up: random(320, SUM_RANK), down: random(SUM_RANK, 320) }, RANK, engine.multiply);
  const times: LayerTimes[] = [];
  for (const [m, n] of shapes) {
    const delta = { up: random(m, SUM_RANK), down: random(SUM_RANK, n) };
    await truncateWith(delta, RANK, engine.multiply);
    const [start, cpu] = [performance.now(), process.cpuUsage()];
    for (let run = 0; run < LAYER_RUNS; run++) await truncateWith(delta, RANK, engine.multiply);
    const { user, system } = process.cpuUsage(cpu);
    times.push({
      ms: (performance.now() - start) / LAYER_RUNS,
      cpuMs: (user + system) / 1000 / LAYER_RUNS,
    });
  }
  await engine.dispose();
  return times;
}

/** Copy a folder's files one after the other and flush each, as baking does. */
function copyFolder(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) {
      copyFolder(source, target);
      continue;
    }
    copyFileSync(source, target);
    const file = openSync(target, 'r+');
    fsyncSync(file);
    closeSync(file);
  }
}

function readFolder(folder: string): void {
  const piece = Buffer.alloc(1 << 24);
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const file = openSync(path.join(entry.parentPath, entry.name), 'r');
    while (readSync(file, piece) > 0);
    closeSync(file);
  }
}

function folderBytes(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).reduce((sum, entry) => {
    const own = path.join(folder, entry.name);
    return sum + (entry.isDirectory() ? folderBytes(own) : statSync(own).size);
  }, 0);
}

async function bakeChild(): Promise<void> {
  const [base, lora, out] = process.argv.slice(3) as [string, string, string];
  await bakeFiles({
    base,
    inputs: [{ path: lora, strength: 0.8, textEncoderStrength: null, blockWeights: null }],
    out,
    noMetadata: true,
  });
  process.stdout.write(JSON.stringify({ peakBytes: process.resourceUsage().maxRSS * 1024 }));
}

interface BakeTimes {
  readonly bakeMs: number;
  readonly copyMs: number;
  readonly bakeCpuMs: number;
  readonly peakBytes: number;
  readonly sizeBytes: number;
}

/** Copying and baking in turn, each flushed to disk; the median of each. */
function bakeBesideCopy(model: string, lora: string, work: string): BakeTimes {
  const target = path.join(work, 'checkpoint');
  // Read once before, so that no run pays for a cold cache.
  readFolder(model);
  const [bakes, copies, cpu]: [number[], number[], number[]] = [[], [], []];
  let peakBytes = 0;
  for (let round = 0; round < DISK_ROUNDS; round++) {
    const start = performance.now();
    copyFolder(model, target);
    copies.push(performance.now() - start);
    rmSync(target, { recursive: true });
    const baked = timed(process.execPath, [process.argv[1]!, '--bake-child', model, lora, target]);
    bakes.push(baked.ms);
    cpu.push(baked.cpuMs);
    process.stderr.write(
      `bake ${seconds(baked.ms)} (${seconds(baked.cpuMs)} of processors), copy ${seconds(copies.at(-1)!)}\n`,
    );
    peakBytes = Math.max(peakBytes, (JSON.parse(baked.output) as { peakBytes: number }).peakBytes);
    rmSync(target, { recursive: true });
  }
  const median = (times: number[]): number => times.sort((a, b) => a - b)[Math.floor(times.length / 2)]!;
  return {
    bakeMs: median(bakes),
    bakeCpuMs: median(cpu),
    copyMs: median(copies),
    peakBytes,
    sizeBytes: folderBytes(model),
  };
}

/** The quickest of several runs, or why there was none. */
function best(runs: readonly (Timed | string)[]): Timed | string {
  return runs.reduce((a, b) => (typeof a === 'string' ? a : typeof b === 'string' ? b : b.ms < a.ms ? b : a));
}

type Row = Readonly<Record<string, string | null>>;

/** Whole processes, ours beside others'. */
function mergeRows(model: string, files: readonly string[], work: string): { rows: Row[]; details: object } {
  const mineRuns: Timed[] = [];
  const scriptRuns: (Timed | string)[] = [];
  const peftRuns: (Timed | string)[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const out = (name: string): string => path.join(work, `${name}${round}.safetensors`);
    const argv = [edlora, 'merge', ...files, '--quiet', '--out', out('ours')];
    mineRuns.push(timed(process.execPath, argv));
    scriptRuns.push(tryPython(['cat', out('script'), ...files]));
    peftRuns.push(tryPython(['peft', model, out('peft'), ...files]));
  }
  const mine = best(mineRuns) as Timed;
  const versionsOf = (run: Timed | string): string =>
    typeof run === 'string' ? `skipped: ${run}` : (JSON.parse(run.output) as { versions: string }).versions;
  const msOf = (run: Timed | string): number | null => (typeof run === 'string' ? null : run.ms);
  const leastCpu = (runs: readonly (Timed | string)[]): number | null =>
    runs.some((run) => typeof run === 'string')
      ? null
      : Math.min(...(runs as readonly Timed[]).map(({ cpuMs }) => cpuMs));
  const others = [
    { name: 'PEFT, add_weighted_adapter', run: best(peftRuns), runs: peftRuns, reach: '3 ×' },
    { name: 'the fewest lines with torch', run: best(scriptRuns), runs: scriptRuns, reach: '2 ×' },
  ];
  return {
    rows: others.map(({ name, run, runs, reach }) => ({
      what: `merge (cat), whole process; other: ${name} (${versionsOf(run)})`,
      edlora: seconds(mine.ms),
      other: typeof run === 'string' ? null : seconds(run.ms),
      'edlora is faster': ratio(mine.ms, msOf(run)),
      'by processor time': ratio(leastCpu(mineRuns)!, leastCpu(runs)),
      'to reach': reach,
    })),
    details: {
      mergeMs: mineRuns.map(({ ms }) => ms),
      scriptMs: scriptRuns.map(msOf),
      peftMs: peftRuns.map(msOf),
    },
  };
}

/** Layers of each shape are measured and counted as often as they occur. */
async function rankRows(layers: readonly Module[]): Promise<{ rows: Row[]; details: object }> {
  const counts = new Map<string, number>();
  for (const { shape } of layers) {
    const key = `${shape[0]},${shape[1]}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const shapes = [...counts.keys()].map((key) => key.split(',').map(Number) as [number, number]);
  const times = [...counts.values()];
  const small = await recompress(shapes);
  const all = (layers: readonly LayerTimes[], which: keyof LayerTimes): number =>
    layers.reduce((sum, layer, i) => sum + layer[which] * times[i]!, 0);
  const dense = tryPython(['svd', String(SUM_RANK), String(RANK), ...shapes.flat().map(String)]);
  const denseTimes =
    typeof dense === 'string' ? null : (JSON.parse(dense.output) as { layers: LayerTimes[] }).layers;
  return {
    rows: [
      {
        what: `rank ${SUM_RANK} sum to ${RANK}, all layers; other: dense SVD, torch.linalg.svd`,
        edlora: seconds(all(small, 'ms')),
        other: denseTimes && seconds(all(denseTimes, 'ms')),
        'edlora is faster': ratio(all(small, 'ms'), denseTimes && all(denseTimes, 'ms')),
        'by processor time': ratio(all(small, 'cpuMs'), denseTimes && all(denseTimes, 'cpuMs')),
        'to reach': '50 ×',
      },
    ],
    details: shapes.map((shape, i) => ({
      shape,
      count: times[i],
      edlora: small[i],
      dense: denseTimes?.[i] ?? null,
    })),
  };
}

async function bakeRows(
  model: string,
  lora: string,
  work: string,
): Promise<{ rows: Row[]; details: object }> {
  const bakes: BakeTimes[] = [];
  for (const base of [model, await ensureRandomModel('F32')]) bakes.push(bakeBesideCopy(base, lora, work));
  const rows = bakes.flatMap(({ bakeMs, copyMs, peakBytes, sizeBytes }): Row[] => [
    {
      what: `bake into ${(sizeBytes / 1e9).toFixed(2)} GB, whole process; other: copying`,
      edlora: seconds(bakeMs),
      other: seconds(copyMs),
      'edlora is faster': ratio(bakeMs, copyMs),
      'to reach': '0.7 ×',
    },
    {
      what: 'the same, peak resident memory',
      edlora: `${(peakBytes / 1e6).toFixed(0)} MB`,
      other: null,
      'edlora is faster': null,
      'to reach': '500 MB',
    },
  ]);
  return { rows, details: bakes };
}

async function main(): Promise<void> {
  const known = ['merge', 'rank', 'bake'];
  const at = process.argv.indexOf('--only');
  const wanted = at < 0 ? known : process.argv[at + 1]!.split(',');
  const unknown = wanted.filter((part) => !known.includes(part));
  if (unknown.length > 0) throw new Error(`--only: expected ${known.join(', ')}, got ${unknown.join(', ')}`);
  const model = await ensureRandomModel('F16');
  const layers = await trainableLayers(model);
  const work = path.join(
    process.env.EDLORA_CACHE === undefined ? tmpdir() : benchCache(),
    `edlora-bench-merge-${process.pid}`,
  );
  mkdirSync(work, { recursive: true });
  const loadBefore = loadavg()[0]!;
  try {
    const files: string[] = [];
    for (let i = 0; i < ADAPTERS; i++) {
      files.push(path.join(work, `lora${i}.safetensors`));
      await writeRandomAdapter(files[i]!, layers, i + 1);
    }
    const rows: Row[] = [];
    const details: Record<string, object> = {};
    const add = (part: string, measured: { rows: Row[]; details: object }): void => {
      rows.push(...measured.rows);
      details[part] = measured.details;
    };
    if (wanted.includes('merge')) add('merge', mergeRows(model, files, work));
    if (wanted.includes('rank')) add('rank', await rankRows(layers));
    if (wanted.includes('bake')) add('bake', await bakeRows(model, files[0]!, work));
    printReport({
      title: `Merging at the size of SD 1.5: ${layers.length} layers, ${ADAPTERS} LoRAs of rank ${RANK} in float16`,
      rows,
      notes: [
        `merging: the best of ${ROUNDS} whole processes in turn; baking and copying: medians of ${DISK_ROUNDS}; load before ${loadBefore.toFixed(1)}, after ${loadavg()[0]!.toFixed(1)}`,
      ],
      details,
    });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

await (process.argv[2] === '--bake-child' ? bakeChild() : main());
