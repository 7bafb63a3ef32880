/**
 * The engine at full size: a random-weight SD 1.5 UNet at 512 × 512, batch 1. Graph emission, session load, forward
 * pass, resident memory; the same UNet in PyTorch where python3 with torch and diffusers is present (PYTHON names
 * the interpreter).
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { inOneGo } from '../../src/pace.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { encodeGraph } from '../../src/runtime/onnxruntime/encode.ts';
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

async function measure(): Promise<Measured> {
  const { unet } = (await openCheckpoint(await ensureRandomModel())).parts;
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

const ours = await measure();
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
      what: 'peak resident memory',
      edlora: gigabytes(ours.peakBytes),
      PyTorch: comparable && gigabytes(comparable.peakBytes),
      'PyTorch / edlora': ratio(ours.peakBytes, comparable?.peakBytes),
    },
  ],
  notes: [
    `graph: ${ours.nodes} nodes, ${(ours.graphBytes / 1e6).toFixed(2)} MB; weights mapped from the safetensors file`,
    comparable === null ? `comparison with PyTorch skipped: ${theirs as string}` : comparable.versions,
  ],
  details: { edlora: ours, pytorch: comparable },
});
