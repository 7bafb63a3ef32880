/**
 * Deprojectors of CLIP-L's size with random weights: one training step of batch 64, forward, back and AdamW, and one application to
 * one embedding; time and memory, each model in a process of its own. PyTorch beside it where python3 has torch (PYTHON names it).
 * `npm run bench:deprojector -- [--only transformer] [--runs 4]`
 */
import { loadavg } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  DEPROJECTOR_MODEL_NAMES,
  DEPROJECTOR_MODELS,
  type DeprojectorModelName,
} from '../../src/deprojector/models/index.ts';
import { buildApplication, buildStep } from '../../src/deprojector/network.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { gradientOutput } from '../../src/graph/gradient-outputs.ts';
import { adamwState, adamwStep } from '../../src/optim/adamw.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { PYTHON } from '../support/python.ts';
import { randomWeights } from '../support/random-weights.ts';
import { printReport } from '../support/tool-output.ts';
import { childOutput } from './child-output.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    runs: { type: 'string', default: '4' },
    json: { type: 'boolean' },
    child: { type: 'string' },
  },
});
const runs = Number(values.runs);
const BATCH = 64;
const POSITIONS = 76;
const WIDTH = 768;
const shape = {
  hiddenSize: WIDTH,
  intermediateSize: 3072,
  numHeads: 12,
  hiddenAct: 'quick_gelu',
  layerNormEpsilon: 1e-5,
  vicinity: 3,
} as const;

/** Milliseconds of each run: on the clock, and of all threads. */
type Times = readonly (readonly [wall: number, cpu: number])[];
interface Measured {
  readonly apply: Times;
  readonly step: Times;
  readonly peakApply: number;
  readonly peakStep: number;
}

async function timed(work: () => Promise<void>): Promise<Times> {
  const times: [number, number][] = [];
  for (let run = 0; run < runs; run++) {
    const [start, cpu] = [performance.now(), process.cpuUsage()];
    await work();
    const { user, system } = process.cpuUsage(cpu);
    times.push([performance.now() - start, (user + system) / 1000]);
  }
  return times;
}

async function measure(name: DeprojectorModelName): Promise<Measured> {
  const plan = { model: DEPROJECTOR_MODELS[name], shape, positions: POSITIONS };
  const { source } = randomWeights(0.03);
  const random = new TorchGenerator(0);
  const tensor = (...dims: number[]): Tensor<Float32Array> =>
    float32(dims, random.randn(dims.reduce((a, b) => a * b, 1)));
  const peak = (): number => process.resourceUsage().maxRSS * 1024;
  const origin = tensor(WIDTH);
  const application = await defaultRuntime().load(buildApplication(plan, source, 1).graph, 'once');
  const one = tensor(1, WIDTH);
  const apply = await timed(async () => {
    await application.run({ embedding: one, origin });
  });
  await application.dispose();
  const peakApply = peak();
  const { graph, parameters } = buildStep(plan, BATCH, true);
  const session = await defaultRuntime().load(graph, 'training');
  const trained = [...parameters].map(([key, own]) => {
    const data = readFloat32(source.get(key, own)!).slice();
    return { name: key, shape: own, data, state: adamwState(data.length) };
  });
  const fixed = {
    embedding: tensor(BATCH, WIDTH),
    before: tensor(BATCH, POSITIONS - 1, WIDTH),
    states: tensor(BATCH, POSITIONS, WIDTH),
    origin,
  };
  const wanted = ['loss', ...trained.map((own) => gradientOutput(own.name))];
  const step = await timed(async () => {
    const feeds = Object.fromEntries(trained.map((own) => [own.name, float32(own.shape, own.data)]));
    const outputs = await session.run({ ...fixed, ...feeds }, wanted);
    for (const { name: key, data, state } of trained) {
      adamwStep(data, outputs[gradientOutput(key)]!.data as Float32Array, state, 1e-4);
    }
  });
  await session.dispose();
  return { apply, step, peakApply, peakStep: peak() };
}

function compare(): void {
  const load = loadavg()[0]!.toFixed(1);
  const names = DEPROJECTOR_MODEL_NAMES.filter((name) => values.only === undefined || values.only === name);
  const notes = [
    `fastest of ${runs - 1} after the first; peak is the process's largest resident size; load of the machine before: ${load}`,
  ];
  const rows = [];
  const details: Record<string, unknown> = {};
  /** The first run also touches the weights. */
  const fastest = (times: Times, which: 0 | 1): number =>
    Math.min(...times.slice(1).map((own) => own[which]));
  for (const name of names) {
    const self = [fileURLToPath(import.meta.url), '--child', name, '--runs', String(runs)];
    const ours = childOutput<Measured>(process.execPath, self);
    if (typeof ours === 'string') throw new Error(ours);
    const script = path.join(packageRoot(), 'test', 'bench', 'deprojector.py');
    const theirs = childOutput<Measured & { versions: string }>(PYTHON, [script, name, String(runs)]);
    const other = typeof theirs === 'string' ? null : theirs;
    if (typeof theirs === 'string') notes.push(`comparison with PyTorch skipped: ${theirs}`);
    else if (!notes.includes(theirs.versions)) notes.push(theirs.versions);
    const ms = (time: number | undefined): string => (time === undefined ? '–' : `${time.toFixed(0)} ms`);
    for (const [what, kind, peak] of [
      [`${name}, training step of ${BATCH} prompts`, 'step', 'peakStep'],
      [`${name}, one embedding applied`, 'apply', 'peakApply'],
    ] as const) {
      const [own, its] = [fastest(ours[kind], 0), other === null ? undefined : fastest(other[kind], 0)];
      const gigabytes = (bytes: number | undefined): string =>
        bytes === undefined ? '–' : `${(bytes / 1e9).toFixed(2)} GB`;
      rows.push({
        what,
        time: ms(own),
        'CPU time': ms(fastest(ours[kind], 1)),
        peak: gigabytes(ours[peak]),
        PyTorch: ms(its),
        'its CPU time': ms(other === null ? undefined : fastest(other[kind], 1)),
        'its peak': gigabytes(other?.[peak]),
        faster: its === undefined ? '–' : `${(its / own).toFixed(2)} ×`,
      });
    }
    details[name] = { ours, theirs };
  }
  notes.push('goal: 1.3 × faster than PyTorch');
  printReport({ title: 'Deprojectors of CLIP-L’s size, random weights', rows, notes, details });
}

if (values.child === undefined) compare();
else {
  process.stdout.write(`${JSON.stringify(await measure(values.child as DeprojectorModelName))}\n`);
  await defaultRuntime().dispose();
}
