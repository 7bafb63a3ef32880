/**
 * Does each subject come where its region says, and nowhere else? Two fused concepts side by side on a miniature, and
 * two plain words on the base, region by region, with and without isolation; pictures of one subject alone beside it. Then
 * two, three and four concepts that act in their regions alone, see placed-concepts.ts.
 * `npm run eval:regions`; some minutes. `--auto` draws prompts without boxes in place of all that, see auto-report.ts: `--samples n`, `--steps n`,
 * `--counts 2,3` (the first concepts of the world), `--method name` (rows), `--workers n` (processes; default one per core), `--fused
 * smiley+bullseye=folder` (a fusion of them, where it was made already). `--set smiley+beachball`: these concepts in one picture, there and in the
 * last part. `--seeds n`, `--placed` (the last part alone), `--concepts a b`, `--world tiny-world-xl`, `--folder folder` (where its files lie), `--out folder` (writes the pictures),
 * `--figure file.svg`, `--json`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Bar, barChart } from '../../src/charts/bar-chart.ts';
import { standaloneSvg } from '../../src/charts/svg.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { encodePng } from '../../src/formats/png.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { vaeFactor } from '../../src/models/vae/config.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts, type SampledPicture } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { CONCEPT_THRESHOLDS, conceptScore } from '../support/shapeland/concept-detector.ts';
import { detect } from '../support/shapeland/detect.ts';
import { crop, type Picture } from '../support/shapeland/picture.ts';
import { CONCEPTS, type Colour, type ConceptName, type Shape } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { reportAuto } from './auto-report.ts';
import { AutoBench, type AutoJob } from './auto-scenes.ts';
import { fusedModel } from './draw.ts';
import { serveJobs, WORKER_OPTIONS } from './job-workers.ts';
import { placedConcepts } from './placed-concepts.ts';
import { SIDE, vocabularyOf, WORLD_OPTIONS, type WorldConcept, worldOf } from './worlds.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: 'string', default: '20' },
    concepts: { type: 'boolean', default: false },
    placed: { type: 'boolean', default: false },
    auto: { type: 'boolean', default: false },
    ...WORLD_OPTIONS,
    ...WORKER_OPTIONS,
    samples: { type: 'string', default: '160' },
    steps: { type: 'string', default: '25' },
    counts: { type: 'string', default: '2,3' },
    set: { type: 'string', multiple: true },
    method: { type: 'string', multiple: true },
    fused: { type: 'string', multiple: true, default: [] },
    out: { type: 'string' },
    figure: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const SEEDS = Number(options.seeds);
const isConcept = (name: string): name is ConceptName => (CONCEPTS as readonly string[]).includes(name);
const named = options.concepts ? positionals : ['smiley', 'bullseye'];
const names = named.filter(isConcept);
if (names.length !== 2 || named.length !== 2) {
  throw new Error(`expected two of ${CONCEPTS.join(', ')}, got ${named.join(', ')}`);
}
const world = await worldOf(options);
const { base } = world;
/** Of a square picture, in latent cells. */
const CELLS = SIDE / vaeFactor((await base.parts.vae()).config);
const SETTINGS = {
  ...world.careful,
  width: SIDE,
  height: SIDE,
  count: SEEDS,
  batchSize: 10,
  seed: 0,
} as const;

/** What a region draws, and how it is recognised. */
interface Subject {
  readonly label: string;
  readonly prompt: string;
  readonly isIn: (picture: Picture) => boolean;
}

const conceptSubject = ({ name, phrase }: WorldConcept): Subject => ({
  label: name,
  prompt: `photo of a ${phrase}`,
  isIn: (picture) => conceptScore(picture, name).score >= CONCEPT_THRESHOLDS[name],
});
const plainSubject = (colour: Colour, shape: Shape): Subject => ({
  label: `${colour} ${shape}`,
  prompt: `photo of a ${colour} ${shape}`,
  isIn: (picture) => {
    const found = detect(picture);
    return found !== null && found.colour === colour && found.shape === shape;
  },
});

type Pair = readonly [Subject, Subject];

/** Two subjects side by side; `gap` is left free on either side of the middle. */
function scene([left, right]: Pair, gap: number, isolate: number): SampleRequest {
  const half = (prompt: string, from: number, to: number) =>
    ({ prompt, shape: { kind: 'box', box: { top: 0, left: from, bottom: 1, right: to } } }) as const;
  return {
    ...SETTINGS,
    prompt: '',
    width: 2 * SIDE,
    height: SIDE,
    isolate,
    regions: [half(left.prompt, 0, 0.5 - gap), half(right.prompt, 0.5 + gap, 1)],
    initialNoise: NOISE.map(twice),
  };
}

/** Noise [4, h, w] of each seed, the same as sampling by seeds draws. */
const NOISE = Array.from({ length: SEEDS }, (_, seed) => new TorchGenerator(seed).randn(4 * CELLS * CELLS));

/** The same noise in both halves, so that each half begins as the picture of its subject alone did: [4, h, 2w]. */
function twice(noise: Float32Array): Float32Array {
  const both = new Float32Array(2 * noise.length);
  for (let row = 0; row < 4 * CELLS; row++) {
    const own = noise.subarray(row * CELLS, (row + 1) * CELLS);
    both.set(own, 2 * row * CELLS);
    both.set(own, (2 * row + 1) * CELLS);
  }
  return both;
}

/** The first is what a region does by itself; the last is what the documentation recommends. */
const SCENES = [
  ['halves', 0, 0],
  ['halves, isolated', 0, 1],
  ['with a gap, isolated', 0.05, 1],
] as const;

async function drawAll(
  parts: PipelineParts,
  request: SampleRequest,
  label: string,
): Promise<SampledPicture[]> {
  const pipeline = await Pipeline.create(base, parts);
  try {
    const pictures = await pipeline.sample(request);
    if (options.out !== undefined) {
      const { width, height } = pictures[0]!;
      const data = new Uint8Array(width * height * 3 * pictures.length);
      pictures.forEach((picture, i) => {
        data.set(picture.data, i * picture.data.length);
      });
      mkdirSync(options.out, { recursive: true });
      const file = path.join(options.out, `${label.replaceAll(/\W+/g, '-')}.png`);
      writeFileSync(file, await encodePng({ width, height: height * pictures.length, data }));
    }
    return pictures;
  } finally {
    await pipeline.dispose();
  }
}

const percent = (cases: readonly boolean[]): number =>
  Math.round((100 * cases.filter(Boolean).length) / cases.length);
const share = (cases: readonly boolean[]): string => (cases.length === 0 ? '–' : `${percent(cases)} %`);

const bars: Bar[] = [];
const rows: Record<string, string>[] = [];
const details: Record<string, Record<string, object>> = {};

/** Draw a pair alone and in every scene with one model. */
async function judge(pair: Pair, parts: PipelineParts, own: ReadonlyMap<string, boolean[]>): Promise<void> {
  const alone: boolean[][] = [];
  for (const { label, prompt, isIn } of pair) {
    const pictures = await drawAll(parts, { ...SETTINGS, prompt }, `alone ${label}`);
    alone.push(pictures.map(isIn));
    bars.push({ label, series: 'alone', value: percent(alone.at(-1)!) });
  }
  for (const [name, gap, isolate] of SCENES) {
    const label = `${name} ${pair.map((subject) => subject.label).join(' ')}`;
    const pictures = await drawAll(parts, scene(pair, gap, isolate), label);
    const half = (i: number, subject: Subject): boolean[] =>
      pictures.map((picture) => subject.isIn(crop(picture, i * SIDE, 0, SIDE, SIDE)));
    pair.forEach((subject, i) => {
      const [inOwn, inOther] = [half(i, subject), half(1 - i, subject)];
      const ownLora = own.get(subject.label);
      details[label] = { ...details[label], [subject.label]: { alone: alone[i], ownLora, inOwn, inOther } };
      bars.push({ label: subject.label, series: name, value: percent(inOwn) });
      rows.push({
        scene: name,
        subject: subject.label,
        'own LoRA alone': ownLora === undefined ? '–' : share(ownLora),
        'this model alone': share(alone[i]!),
        'in its own half': share(inOwn),
        'of those drawn alone': share(inOwn.filter((_, seed) => alone[i]![seed])),
        'in the other half': share(inOther),
      });
    });
  }
}

if (options.auto) await auto();
else {
  if (!options.placed) await reportSides();
  await reportPlaced();
}

/** Two subjects side by side: plain words by the base, concepts by their fusion. */
async function reportSides(): Promise<void> {
  const concepts: WorldConcept[] = [];
  const own = new Map<string, boolean[]>();
  for (const name of names) {
    const known = await world.concept(name);
    concepts.push(known);
    const parts = {
      deltas: await conceptDeltas(base, known.concept),
      vocabulary: vocabularyOf(world, [known]),
    };
    const { prompt, isIn } = conceptSubject(known);
    own.set(name, (await drawAll(parts, { ...SETTINGS, prompt }, `own LoRA ${name}`)).map(isIn));
  }
  const subjects = concepts.map(conceptSubject) as unknown as Pair;
  await judge([plainSubject('red', 'circle'), plainSubject('blue', 'square')], {}, new Map());
  const fusion = await fuse({ base, concepts: concepts.map(({ concept }) => ({ concept })) });
  await judge(subjects, fusedModel(fusion), own);
  if (options.figure !== undefined) {
    const chart = barChart({
      title: `Found where its region says, of ${SEEDS} pictures`,
      valueLabel: 'pictures, %',
      domain: [0, 100],
      bars,
    });
    writeFileSync(options.figure, standaloneSvg(chart));
  }
  printReport({
    title: `Two subjects side by side, ${SEEDS} seeds each, found by the pixel detectors`,
    rows,
    notes: [
      'alone: 64 × 64, same prompt and seeds; scenes: 128 × 64; plain words by the base, concepts by their fusion',
      'of those drawn alone: seeds at which the same model draws the subject alone; each half of a scene begins with the same noise as those pictures',
      `${SETTINGS.sampler}, ${SETTINGS.steps} steps, guidance ${SETTINGS.guidanceScale}; isolation over all steps, gap a tenth of the width`,
    ],
    details,
  });
}

async function auto(): Promise<void> {
  const settings = { samples: Number(options.samples), steps: Number(options.steps) };
  if (!options.worker) {
    await reportAuto(world, {
      ...settings,
      sets: autoSets(),
      methods: options.method,
      fusions: new Map(options.fused.map((each) => each.split('=') as [string, string])),
      workers: Number(options.workers),
      program: fileURLToPath(import.meta.url),
    });
    return;
  }
  const { out } = options;
  const bench = new AutoBench(world, settings, async ({ concepts, method }: AutoJob, picture) => {
    if (out === undefined) return;
    mkdirSync(out, { recursive: true });
    const file = `${concepts.join('-')}-${method.replaceAll(/\W+/g, '-')}-${picture.seed}.png`;
    writeFileSync(path.join(out, file), await encodePng(picture));
  });
  serveJobs(
    (job: AutoJob) => bench.run(job),
    () => bench.dispose(),
  );
}

/** Concepts that stand in one picture, as `--set` names them. */
function namedSets(): ConceptName[][] | undefined {
  return options.set?.map((set) => set.split('+').filter(isConcept));
}

function autoSets(): ConceptName[][] {
  const named = namedSets();
  if (named !== undefined) return named;
  const all = world.concepts.map(({ name }) => name);
  return options.counts.split(',').map((count) => all.slice(0, Number(count)));
}

async function reportPlaced(): Promise<void> {
  printReport({
    title: `Concepts that act in their own region alone, ${SEEDS} seeds each`,
    rows: await placedConcepts(world, SEEDS, namedSets() ?? world.sets),
    notes: [
      'squares of 64 × 64 with 16 free columns between them, isolated',
      'alone: own LoRA, or the base, 64 × 64, same prompt, same noise; of the context’s shape: the base on the same canvas, same square',
      'elsewhere: the other squares of the scene, taken together',
    ],
  });
}
