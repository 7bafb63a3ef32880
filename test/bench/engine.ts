/**
 * The engine at full size: a random-weight SD 1.5 UNet at 512 × 512, batch 1. Graph emission, session load, forward
 * pass, resident memory; decoding a picture; the UNet from a float16 file with and without --lean. UNet and decoder in
 * PyTorch where python3 with torch and diffusers is present (PYTHON names the interpreter).
 * `npm run bench:engine`; `-- --only pass,decode,lean` runs parts, `-- --runs 2` fewer passes (the first does not count).
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { inOneGo } from '../../src/pace.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { encodeGraph } from '../../src/runtime/onnxruntime/encode.ts';
import { LatentCodec } from '../../src/sampling/latent-codec.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, sizeOf } from '../../src/tensor/tensor.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { ensureRandomModel } from './random-sd15.ts';

const runsAt = process.argv.indexOf('--runs');
const RUNS = runsAt < 0 ? 4 : Number(process.argv[runsAt + 1]);
const SIZE = { batch: 1, latentHeight: 64, latentWidth: 64, tokens: 77 };

const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

interface Measured {
  readonly emitMs: number;
  readonly encodeMs: number;
  readonly graphBytes: number;
  readonly nodes: number;
  readonly loadMs: number;
  readonly forwardMs: readonly number[];
  /** Time of all threads: says something beside other work too. */
  readonly forwardCpuMs: readonly number[];
  readonly peakBytes: number;
}

/** Run some work several times, each one timed. */
async function clocked(
  runs: number,
  work: () => Promise<unknown>,
): Promise<{ ms: number[]; cpuMs: number[] }> {
  const [ms, cpuMs]: [number[], number[]] = [[], []];
  for (let run = 0; run < runs; run++) {
    const [start, startCpu] = [performance.now(), process.cpuUsage()];
    await work();
    ms.push(performance.now() - start);
    const { user, system } = process.cpuUsage(startCpu);
    cpuMs.push((user + system) / 1000);
  }
  return { ms, cpuMs };
}

async function measure(dtype: 'F32' | 'F16'): Promise<Measured> {
  const { unet } = (await openCheckpoint(await ensureRandomModel(dtype))).parts;
  let start = performance.now();
  const { graph } = buildUnet(unet.weights, unet.config, SIZE, { layerwiseContext: false });
  const emitMs = performance.now() - start;
  start = performance.now();
  const { bytes } = inOneGo(encodeGraph(graph));
  const encodeMs = performance.now() - start;
  start = performance.now();
  const session = await defaultRuntime().load(graph, 'every-step');
  const loadMs = performance.now() - start;
  const feeds = Object.fromEntries(
    graph.inputs.map(({ name, shape }) => {
      const values = Float32Array.from({ length: sizeOf(shape) }, (_, i) =>
        name === 'timestep' ? 500 : Math.sin(i),
      );
      return [name, float32(shape, values)];
    }),
  );
  const { ms: forwardMs, cpuMs: forwardCpuMs } = await clocked(RUNS, () => session.run(feeds));
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  await session.dispose();
  return {
    emitMs,
    encodeMs,
    graphBytes: bytes.length,
    nodes: graph.nodes.length,
    loadMs,
    forwardMs,
    forwardCpuMs,
    peakBytes,
  };
}

interface PythonMeasured {
  readonly loadMs: number;
  readonly forwardMs: readonly number[];
  readonly cpuMs: readonly number[];
  readonly decodeMs: readonly number[];
  readonly decodeCpuMs: readonly number[];
  readonly peakBytes: number;
  readonly versions: string;
}

/** The same by diffusers, in a process of its own; the reason when it cannot run. @param runs of the UNet */
function measurePython(folder: string, runs: number): PythonMeasured | string {
  const script = path.join(packageRoot(), 'test', 'bench', 'engine.py');
  const { status, stdout, error } = spawnSync(PYTHON, [script, folder, String(runs)], { encoding: 'utf8' });
  if (error !== undefined) return `${PYTHON}: ${error.message}`;
  if (status !== 0) return `${PYTHON} without torch and diffusers, or it failed`;
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as PythonMeasured;
}

/** The first run also touches the weights for the first time; the fastest of the rest counts. */
const warm = (times: readonly number[]): number => Math.min(...times.slice(1));

/** Decoding one picture of 512 × 512, in a process of its own: the second run counts. */
async function measureDecoder(): Promise<{ ms: number[]; cpuMs: number[] }> {
  const codec = new LatentCodec(await (await openCheckpoint(await ensureRandomModel())).parts.vae());
  const latents = float32([1, 4, 64, 64], new TorchGenerator(0).randn(4 * 64 * 64));
  const times = await clocked(2, () => codec.decode(latents));
  await codec.dispose();
  return times;
}

/** The same UNet from a float16 file, with weights widened at load or in the run. */
function measureHalves(lean: boolean): Measured {
  const env = { ...process.env, EDLORA_LEAN: lean ? '1' : '0' };
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [fileURLToPath(import.meta.url), '--halves', '--runs', String(RUNS)],
    {
      encoding: 'utf8',
      env,
    },
  );
  if (stdout === '') throw new Error(stderr);
  const measured = JSON.parse(stdout) as Measured;
  const { forwardMs, peakBytes } = measured;
  process.stderr.write(
    `${lean ? 'lean' : 'widened'}: ${forwardMs.map(seconds).join(', ')}, ${gigabytes(peakBytes)}\n`,
  );
  return measured;
}

if (process.argv[2] === '--halves') {
  process.stdout.write(JSON.stringify(await measure('F16')));
  process.exit(0);
}

type Row = Readonly<Record<string, string | null>>;

const ratio = (a: number, b: number | undefined): string | null =>
  b === undefined ? null : `${(b / a).toFixed(2)} ×`;

/** The figures of one row; `theirs` are null where nothing is compared. */
function row(what: string, ours: number, theirs: number | undefined, unit: (value: number) => string): Row {
  return {
    what,
    edlora: unit(ours),
    PyTorch: theirs === undefined ? null : unit(theirs),
    'PyTorch / edlora': ratio(ours, theirs),
    'by processor time': null,
  };
}

const known = ['pass', 'decode', 'lean'];
const at = process.argv.indexOf('--only');
const wanted = at < 0 ? known : process.argv[at + 1]!.split(',');
const unknown = wanted.filter((part) => !known.includes(part));
if (unknown.length > 0) throw new Error(`--only: expected ${known.join(', ')}, got ${unknown.join(', ')}`);

const rows: Row[] = [];
const notes: string[] = [];
const details: Record<string, unknown> = {};
const pass = wanted.includes('pass') ? await measure('F32') : null;
const decoder = wanted.includes('decode') ? await measureDecoder() : null;
if (pass !== null || decoder !== null) {
  const theirs = measurePython(await ensureRandomModel(), pass === null ? 0 : RUNS);
  const other = typeof theirs === 'object' ? theirs : null;
  if (pass !== null) {
    rows.push(
      row('graph emission', pass.emitMs, undefined, seconds),
      row('graph encoding', pass.encodeMs, undefined, seconds),
      row('load', pass.loadMs, other?.loadMs, seconds),
      row('first forward', pass.forwardMs[0]!, other?.forwardMs[0], seconds),
      {
        ...row('forward', warm(pass.forwardMs), other ? warm(other.forwardMs) : undefined, seconds),
        'by processor time': ratio(warm(pass.forwardCpuMs), other ? warm(other.cpuMs) : undefined),
      },
      row('peak resident memory', pass.peakBytes, other?.peakBytes, gigabytes),
    );
    notes.push(
      `graph: ${pass.nodes} nodes, ${(pass.graphBytes / 1e6).toFixed(2)} MB; weights mapped from the safetensors file`,
    );
  }
  if (decoder !== null) {
    rows.push({
      ...row('decoding a picture', warm(decoder.ms), other ? warm(other.decodeMs) : undefined, seconds),
      'by processor time': ratio(warm(decoder.cpuMs), other ? warm(other.decodeCpuMs) : undefined),
    });
  }
  notes.push(other === null ? `comparison with PyTorch skipped: ${theirs as string}` : other.versions);
  Object.assign(details, { edlora: pass, decoder, pytorch: other });
}
if (wanted.includes('lean')) {
  await ensureRandomModel('F16');
  const [widened, lean] = [measureHalves(false), measureHalves(true)];
  const slower = (which: 'forwardMs' | 'forwardCpuMs'): string =>
    (warm(lean[which]) / warm(widened[which])).toFixed(2);
  notes.push(
    `from a float16 file: ${seconds(warm(widened.forwardMs))} and ${gigabytes(widened.peakBytes)}; with --lean ` +
      `${seconds(warm(lean.forwardMs))} (${slower('forwardMs')} ×, by processor time ${slower('forwardCpuMs')} ×) and ${gigabytes(lean.peakBytes)}`,
  );
  Object.assign(details, { widened, lean });
}
printReport({
  title: 'SD 1.5 (UNet of 860 M parameters, random float32 weights), 512 × 512, batch 1, no guidance',
  rows,
  notes,
  details,
});
