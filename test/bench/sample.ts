/**
 * Sampling at full size: a random-weight SD 1.5 at 512 × 512. What a step costs without guidance, with it, with two and
 * four regions, with isolation, and with a concept in each of four regions; what decoding takes. The same guided step in PyTorch where python3 with torch and
 * diffusers is present (PYTHON names the interpreter). `npm run bench:sample`; several minutes. `-- --auto`: processor time of whole pictures
 * whose two concepts find their places, to a plain picture, row by row as they are there; with `--size 256` in a quarter of the time, with
 * `--only 'found places'` of these alone.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { packageRoot } from '../../src/package-root.ts';
import type { AutoRegions } from '../../src/sampling/auto-regions/auto-regions.ts';
import { LatentCodec } from '../../src/sampling/latent-codec.ts';
import type { Region } from '../../src/sampling/region.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { argument } from './argument.ts';
import { ensureRandomModel } from './random-sd15.ts';

/** Steps per setting; the first warms up, the fastest of the others counts. */
const STEPS = 4;
const SIZE = Number(argument('--size') ?? 512);

const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

/** Boxes that divide the picture into so many columns and rows. */
function tiles(columns: number, rows: number): Region[] {
  return Array.from({ length: columns * rows }, (_, i) => {
    const [x, y] = [i % columns, Math.floor(i / columns)];
    const box = {
      left: x / columns,
      right: (x + 1) / columns,
      top: y / rows,
      bottom: (y + 1) / rows,
    };
    return { prompt: `region ${i}`, shape: { kind: 'box', box } };
  });
}

/** Each region with a concept of its own. */
const placed = tiles(2, 2).map((region, concept) => ({ ...region, concepts: [{ concept }] }));

const SETTINGS: readonly (readonly [what: string, request: Partial<SampleRequest>, concepts?: number])[] = [
  ['no guidance', { guidanceScale: 1 }],
  ['guidance', {}],
  ['guidance, 2 regions', { regions: tiles(2, 1) }],
  ['guidance, 4 regions', { regions: tiles(2, 2) }],
  ['guidance, 4 regions, isolated', { regions: tiles(2, 2), isolate: 1 }],
  ['guidance, 4 regions with a concept of rank 4 each', { regions: placed, concepts: [] }, 4],
];

/** Random changes of rank 4 of all attention layers. */
function randomConcept(base: Checkpoint, seed: number): ModelDeltas {
  const random = new TorchGenerator(seed);
  const factor = (rows: number, cols: number) =>
    matrix(
      rows,
      cols,
      Float64Array.from(random.randn(rows * cols), (value) => value / 100),
    );
  const attention = [...base.parts.layers].filter(({ role }) => /attention|context/.test(role));
  return new Map(attention.map(({ id, m, n }) => [id, lowRank(factor(m, 4), factor(4, n))]));
}

/** Peak memory of decoding one picture in this process. */
async function decodeOnly(): Promise<void> {
  const codec = new LatentCodec(await (await openCheckpoint(await ensureRandomModel())).parts.vae());
  const cells = SIZE / 8;
  const latents = float32([1, 4, cells, cells], new TorchGenerator(0).randn(4 * cells * cells));
  const start = performance.now();
  await codec.decode(latents);
  const elapsedMs = performance.now() - start;
  await codec.dispose();
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  process.stdout.write(JSON.stringify({ elapsedMs, peakBytes }));
}

/** Fastest step of one setting, the first left out. */
async function stepTime(folder: string, request: Partial<SampleRequest>, concepts = 0): Promise<number> {
  const base = await openCheckpoint(folder);
  const placedDeltas = Array.from({ length: concepts }, (_, seed) => randomConcept(base, seed));
  const pipeline = await Pipeline.create(base, { placedDeltas });
  const times: number[] = [];
  let last = 0;
  const abort = new AbortController();
  try {
    await pipeline.sample(
      { prompt: 'a picture', width: SIZE, height: SIZE, steps: STEPS, ...request },
      {
        signal: abort.signal,
        onStep: ({ step }) => {
          const now = performance.now();
          if (step > 1) times.push(now - last);
          last = now;
          // Decoding is measured by itself.
          if (step === STEPS) abort.abort();
        },
      },
    );
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    await pipeline.dispose();
  }
  return Math.min(...times);
}

/** The guided step in diffusers: a forward pass of batch 2. A text is the reason why there is none. */
function pythonStep(folder: string): { forwardMs: number[]; versions: string } | string {
  const script = path.join(packageRoot(), 'test', 'bench', 'engine.py');
  const { status, stdout, error } = spawnSync(PYTHON, [script, folder, String(STEPS), '2'], {
    encoding: 'utf8',
  });
  if (error !== undefined) return `${PYTHON}: ${error.message}`;
  if (status !== 0) return `${PYTHON} without torch and diffusers, or it failed`;
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as { forwardMs: number[]; versions: string };
}

async function benchmark(): Promise<void> {
  const folder = await ensureRandomModel();
  const measured = [];
  for (const [what, request, concepts] of SETTINGS) {
    measured.push({ what, ms: await stepTime(folder, request, concepts) });
  }
  const [unguided, guided] = [measured[0]!.ms, measured[1]!.ms];
  const { stdout } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), '--decode'], {
    encoding: 'utf8',
  });
  const decode = JSON.parse(stdout) as { elapsedMs: number; peakBytes: number };
  const theirs = pythonStep(folder);
  const pytorchMs = typeof theirs === 'string' ? null : Math.min(...theirs.forwardMs.slice(1));
  printReport({
    title: `A step at ${SIZE} × ${SIZE}: SD 1.5 UNet, random float32 weights`,
    rows: measured.map(({ what, ms }) => ({
      what,
      'a step': seconds(ms),
      'to no guidance': `${(ms / unguided).toFixed(2)} ×`,
      'to guidance': `${(ms / guided).toFixed(2)} ×`,
      PyTorch: what === 'guidance' && pytorchMs !== null ? seconds(pytorchMs) : null,
      'PyTorch / edlora':
        what === 'guidance' && pytorchMs !== null ? `${(pytorchMs / ms).toFixed(2)} ×` : null,
    })),
    notes: [
      `decoding one picture: ${seconds(decode.elapsedMs)} with loading, ${gigabytes(decode.peakBytes)} at most in a process of its own`,
      `guided steps are one pass of batch 2; regions are boxes that cover the picture; fastest of ${STEPS - 1}`,
      typeof theirs === 'string' ? `comparison with PyTorch skipped: ${theirs}` : theirs.versions,
    ],
    details: { measured, decode, pytorch: theirs },
  });
}

/** Steps of whole pictures. */
const PICTURE_STEPS = 12;

/** Ways to draw two concepts that nobody placed. */
const AUTO: readonly (readonly [what: string, auto: Partial<AutoRegions> | null, isolate?: number])[] = [
  ['added up', null],
  ['found places', {}],
  ['found places, going on', { restart: false }],
  ['found places, not isolated', {}, 0],
];

/** Processor seconds from the first step's beginning to the last one's end, loading of the network included. */
async function pictureCost(
  folder: string,
  auto: Partial<AutoRegions> | null,
  isolate: number | undefined,
): Promise<number> {
  const base = await openCheckpoint(folder);
  const placedDeltas = [0, 1].map((seed) => randomConcept(base, seed));
  const pipeline = await Pipeline.create(base, { placedDeltas });
  const regions = ['cat', 'dog'].map((word, concept) => ({
    prompt: `a ${word} on grass`,
    words: [word],
    concepts: [{ concept }],
  }));
  const abort = new AbortController();
  const spent = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  const before = spent();
  let cost = 0;
  try {
    const places =
      auto === null ? {} : { concepts: [], autoRegions: { background: 'on grass', regions, ...auto } };
    await pipeline.sample(
      {
        prompt: 'a cat and a dog on grass',
        width: SIZE,
        height: SIZE,
        steps: PICTURE_STEPS,
        ...(isolate === undefined ? {} : { isolate }),
        ...places,
      },
      {
        signal: abort.signal,
        onStep: ({ step, steps }) => {
          cost = spent() - before;
          if (step === steps) abort.abort();
        },
      },
    );
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    await pipeline.dispose();
  }
  return cost;
}

async function autoCosts(): Promise<void> {
  const folder = await ensureRandomModel();
  const rows = [];
  let plain = 0;
  const only = argument('--only');
  const [reference, ...others] = AUTO;
  if (only !== undefined && !others.some(([name]) => name === only)) {
    throw new Error(`--only: expected ${others.map(([name]) => name).join(' or ')}, got ${only}`);
  }
  for (const [what, auto, isolate] of [
    reference!,
    ...others.filter(([name]) => only === undefined || name === only),
  ]) {
    const cost = await pictureCost(folder, auto, isolate);
    plain ||= cost;
    const row = { what, 'CPU s a picture': cost.toFixed(1), 'to added up': `${(cost / plain).toFixed(2)} ×` };
    process.stderr.write(`${Object.values(row).join(' | ')}\n`);
    rows.push(row);
  }
  printReport({
    title: `Two concepts of rank 4 in one prompt at ${SIZE} × ${SIZE}, ${PICTURE_STEPS} steps with guidance, SD 1.5, random float32 weights`,
    rows,
    notes: ['one picture each; text and loading of networks included, decoding not'],
  });
}

if (process.argv.includes('--decode')) await decodeOnly();
else await (process.argv.includes('--auto') ? autoCosts() : benchmark());
