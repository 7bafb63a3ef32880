/**
 * The engine at full size: a random-weight SD 1.5 UNet at 512 × 512, batch 1. Graph emission, session load, forward
 * pass, resident memory; decoding a picture; the UNet from a float16 file with and without --lean. UNet and decoder in
 * PyTorch where python3 with torch and diffusers is present (PYTHON names the interpreter).
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
import { printReport } from '../support/tool-output.ts';
import { ensureRandomModel } from './random-sd15.ts';

const RUNS = 4;
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
  readonly peakBytes: number;
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
  const forwardMs: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    start = performance.now();
    await session.run(feeds);
    forwardMs.push(performance.now() - start);
  }
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  await session.dispose();
  return {
    emitMs,
    encodeMs,
    graphBytes: bytes.length,
    nodes: graph.nodes.length,
    loadMs,
    forwardMs,
    peakBytes,
  };
}

interface PythonMeasured {
  readonly loadMs: number;
  readonly forwardMs: readonly number[];
  readonly decodeMs: readonly number[];
  readonly peakBytes: number;
  readonly versions: string;
}

/** The same forward pass by diffusers, in a process of its own; null with the reason when it cannot run. */
function measurePython(folder: string): PythonMeasured | string {
  const python = process.env.PYTHON ?? 'python3';
  const script = path.join(packageRoot(), 'test', 'bench', 'engine.py');
  const { status, stdout, error } = spawnSync(python, [script, folder, String(RUNS)], { encoding: 'utf8' });
  if (error !== undefined) return `${python}: ${error.message}`;
  if (status !== 0) return `${python} without torch and diffusers, or it failed`;
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as PythonMeasured;
}

/** The first run also touches the weights for the first time; the fastest of the rest counts. */
const warm = (times: readonly number[]): number => Math.min(...times.slice(1));

/** Decoding one picture of 512 × 512, in a process of its own: the second run counts. */
async function measureDecoder(): Promise<readonly number[]> {
  const codec = new LatentCodec(await (await openCheckpoint(await ensureRandomModel())).parts.vae());
  const latents = float32([1, 4, 64, 64], new TorchGenerator(0).randn(4 * 64 * 64));
  const times: number[] = [];
  for (let run = 0; run < 2; run++) {
    const start = performance.now();
    await codec.decode(latents);
    times.push(performance.now() - start);
  }
  await codec.dispose();
  return times;
}

/** The same UNet from a float16 file, with weights widened at load or in the run. */
function measureHalves(lean: boolean): Measured {
  const env = { ...process.env, EDLORA_LEAN: lean ? '1' : '0' };
  const { stdout, stderr } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), '--halves'], {
    encoding: 'utf8',
    env,
  });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout) as Measured;
}

if (process.argv[2] === '--halves') {
  process.stdout.write(JSON.stringify(await measure('F16')));
  process.exit(0);
}

const ours = await measure('F32');
const decoder = await measureDecoder();
await ensureRandomModel('F16');
const [widened, lean] = [measureHalves(false), measureHalves(true)];
const theirs = measurePython(await ensureRandomModel());
const comparable = typeof theirs === 'object' ? theirs : null;
const ratio = (a: number, b: number | undefined): string | null =>
  b === undefined ? null : `${(b / a).toFixed(2)} ×`;
printReport({
  title: 'SD 1.5 UNet (860 M parameters, random float32 weights), 512 × 512, batch 1, no guidance',
  rows: [
    {
      what: 'graph emission',
      edlora: `${ours.emitMs.toFixed(0)} ms`,
      PyTorch: null,
      'PyTorch / edlora': null,
    },
    {
      what: 'graph encoding',
      edlora: `${ours.encodeMs.toFixed(0)} ms`,
      PyTorch: null,
      'PyTorch / edlora': null,
    },
    {
      what: 'load',
      edlora: seconds(ours.loadMs),
      PyTorch: comparable && seconds(comparable.loadMs),
      'PyTorch / edlora': ratio(ours.loadMs, comparable?.loadMs),
    },
    {
      what: 'first forward',
      edlora: seconds(ours.forwardMs[0]!),
      PyTorch: comparable && seconds(comparable.forwardMs[0]!),
      'PyTorch / edlora': ratio(ours.forwardMs[0]!, comparable?.forwardMs[0]),
    },
    {
      what: 'forward',
      edlora: seconds(warm(ours.forwardMs)),
      PyTorch: comparable && seconds(warm(comparable.forwardMs)),
      'PyTorch / edlora': ratio(warm(ours.forwardMs), comparable ? warm(comparable.forwardMs) : undefined),
    },
    {
      what: 'decoding a picture',
      edlora: seconds(warm(decoder)),
      PyTorch: comparable && seconds(warm(comparable.decodeMs)),
      'PyTorch / edlora': ratio(warm(decoder), comparable ? warm(comparable.decodeMs) : undefined),
    },
    {
      what: 'peak resident memory',
      edlora: gigabytes(ours.peakBytes),
      PyTorch: comparable && gigabytes(comparable.peakBytes),
      'PyTorch / edlora': ratio(ours.peakBytes, comparable?.peakBytes),
    },
  ],
  notes: [
    `graph: ${ours.nodes} nodes, ${(ours.graphBytes / 1e6).toFixed(2)} MB; weights mapped from the safetensors file`,
    `from a float16 file: ${seconds(warm(widened.forwardMs))} and ${gigabytes(widened.peakBytes)}; with --lean ` +
      `${seconds(warm(lean.forwardMs))} (${(warm(lean.forwardMs) / warm(widened.forwardMs)).toFixed(2)} ×) and ${gigabytes(lean.peakBytes)}`,
    comparable === null ? `comparison with PyTorch skipped: ${theirs as string}` : comparable.versions,
  ],
  details: { edlora: ours, decoder, widened, lean, pytorch: comparable },
});
