/**
 * Does each concept come where its region says, and nowhere else? Two fused concepts side by side on the miniature,
 * region by region, with and without isolation; single-concept pictures beside it. `npm run eval:regions`; a few minutes.
 * `--seeds n`, `--out folder` (writes the pictures, one sheet a setting), `--json`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { encodePng } from '../../src/formats/png.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import type { Region } from '../../src/sampling/region.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts, type SampledPicture } from '../../src/sampling/sample.ts';
import { CONCEPT_THRESHOLDS, conceptScore } from '../support/shapeland/concept-detector.ts';
import { crop, type Picture } from '../support/shapeland/picture.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { fusedModel } from './draw.ts';
import { wordsOf } from './identity.ts';

const { values: options } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    out: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const SEEDS = Number(options.seeds);
const NAMES: readonly [ConceptName, ConceptName] = ['smiley', 'bullseye'];
/** The detector sees squares of the size that it was made for. */
const SIDE = 64;
const SETTINGS = {
  guidanceScale: 4,
  sampler: 'ddim',
  steps: 25,
  count: SEEDS,
  batchSize: 10,
  seed: 0,
} as const;

const prompt = (name: ConceptName): string => `photo of a ${wordsOf(name)}`;
const half = (name: ConceptName, left: number, right: number): Region => ({
  prompt: prompt(name),
  shape: { kind: 'box', box: { top: 0, left, bottom: 1, right } },
});
const scene = (margin: number, isolate: number): SampleRequest => ({
  ...SETTINGS,
  prompt: '',
  width: 2 * SIDE,
  height: SIDE,
  isolate,
  regions: [half(NAMES[0], 0, 0.5 - margin), half(NAMES[1], 0.5 + margin, 1)],
});
/** The first is what a region does by itself; the last is what the documentation recommends. */
const SCENES: readonly (readonly [name: string, request: SampleRequest])[] = [
  ['halves', scene(0, 0)],
  ['halves, isolated', scene(0, 1)],
  ['with a gap, isolated', scene(0.05, 1)],
];

const finds = (picture: Picture, name: ConceptName): boolean =>
  conceptScore(picture, name).score >= CONCEPT_THRESHOLDS[name];

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
      writeFileSync(file, encodePng({ width, height: height * pictures.length, data }));
    }
    return pictures;
  } finally {
    await pipeline.dispose();
  }
}

const base = await openCheckpoint(defaultBase());
const participants = [];
for (const name of NAMES) {
  const file = path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
  participants.push({ concept: await loadConcept(file) });
}
const alone = new Map<ConceptName, boolean[]>();
for (const [i, name] of NAMES.entries()) {
  const { concept } = participants[i]!;
  const parts = { ...conceptDeltas(base, concept), vocabulary: bindConcepts(base.tokenizer, [concept]) };
  const pictures = await drawAll(parts, { ...SETTINGS, prompt: prompt(name) }, `alone ${name}`);
  alone.set(
    name,
    pictures.map((picture) => finds(picture, name)),
  );
}
const fused = fusedModel(await fuse({ base, participants }));
const percent = (part: number, whole: number): string =>
  whole === 0 ? '–' : `${Math.round((100 * part) / whole)} %`;
const rows = [];
const details: Record<string, Record<string, { alone: boolean; own: boolean; other: boolean }[]>> = {};
for (const [label, request] of SCENES) {
  const pictures = await drawAll(fused, request, label);
  details[label] = {};
  for (const [i, name] of NAMES.entries()) {
    const cases = pictures.map((picture, seed) => ({
      alone: alone.get(name)![seed]!,
      own: finds(crop(picture, i * SIDE, 0, SIDE, SIDE), name),
      other: finds(crop(picture, (1 - i) * SIDE, 0, SIDE, SIDE), name),
    }));
    details[label][name] = cases;
    const drawn = cases.filter((entry) => entry.alone);
    rows.push({
      scene: label,
      concept: name,
      'drawn alone': percent(drawn.length, SEEDS),
      'in its own half': percent(cases.filter(({ own }) => own).length, SEEDS),
      'of those drawn alone': percent(drawn.filter(({ own }) => own).length, drawn.length),
      'in the other half': percent(cases.filter(({ other }) => other).length, SEEDS),
    });
  }
}
printReport({
  title: `Two fused concepts side by side, ${SEEDS} seeds each, found by the pixel detector`,
  rows,
  notes: [
    'alone: the concept’s own ED-LoRA, 64 × 64, same prompt and seed; scenes: the fused model, 128 × 64',
    `${SETTINGS.sampler}, ${SETTINGS.steps} steps, guidance ${SETTINGS.guidanceScale}; isolation over all steps, gap a tenth of the width`,
  ],
  details,
});
