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
  ['halves, isolated', scene(0, 0.8)],
  ['with a gap, isolated', scene(0.05, 0.8)],
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
const fused = fusedModel(await fuse({ base, participants }));
/** Whether the concept is found in pictures of it alone, seed by seed. */
const alone = async (name: ConceptName, parts: PipelineParts, label: string): Promise<boolean[]> =>
  (await drawAll(parts, { ...SETTINGS, prompt: prompt(name) }, `${label} ${name}`)).map((picture) =>
    finds(picture, name),
  );
const byItself = new Map<ConceptName, { own: boolean[]; fused: boolean[] }>();
for (const [i, name] of NAMES.entries()) {
  const { concept } = participants[i]!;
  const parts = { ...conceptDeltas(base, concept), vocabulary: bindConcepts(base.tokenizer, [concept]) };
  byItself.set(name, {
    own: await alone(name, parts, 'own LoRA'),
    fused: await alone(name, fused, 'fused'),
  });
}
const share = (cases: readonly boolean[]): string =>
  cases.length === 0 ? '–' : `${Math.round((100 * cases.filter(Boolean).length) / cases.length)} %`;
const rows = [];
const details: Record<string, Record<string, object>> = {};
for (const [label, request] of SCENES) {
  const pictures = await drawAll(fused, request, label);
  details[label] = {};
  for (const [i, name] of NAMES.entries()) {
    const single = byItself.get(name)!;
    const own = pictures.map((picture) => finds(crop(picture, i * SIDE, 0, SIDE, SIDE), name));
    const other = pictures.map((picture) => finds(crop(picture, (1 - i) * SIDE, 0, SIDE, SIDE), name));
    details[label][name] = { ...single, own, other };
    rows.push({
      scene: label,
      concept: name,
      'alone, own LoRA': share(single.own),
      'alone, fused': share(single.fused),
      'in its own half': share(own),
      'of those drawn alone': share(own.filter((_, seed) => single.fused[seed])),
      'in the other half': share(other),
    });
  }
}
printReport({
  title: `Two fused concepts side by side, ${SEEDS} seeds each, found by the pixel detector`,
  rows,
  notes: [
    'alone: 64 × 64, same prompt and seeds, by the concept’s own ED-LoRA and by the fusion; scenes: the fusion, 128 × 64',
    'of those drawn alone: seeds at which the fusion draws the concept alone',
    `${SETTINGS.sampler}, ${SETTINGS.steps} steps, guidance ${SETTINGS.guidanceScale}; isolation over four fifths of the steps, gap a tenth of the width`,
  ],
  details,
});
