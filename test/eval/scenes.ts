/**
 * Can a base put several things into one picture by one prompt, and does it look for each where it stands? Prompts of one, two and three
 * objects, read back by the detector of all objects; and how far apart the attention of two nouns is in "A to the left of B".
 * `npm run eval:scenes`; `-- --count 100` pictures a number of objects, `--objects 2,3`, `--maps 32` prompts for attention, `--steps 25`,
 * `--sampler euler`, `--seed 1`, `--world`, `--folder`, `--out folder` (writes the pictures), `--json`. About eight minutes on one core.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { attentionMaps } from '../../src/evaluation/attention-maps.ts';
import { encodePng } from '../../src/formats/png.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import type { Picture } from '../support/shapeland/picture.ts';
import {
  judgeScene,
  type NamedScene,
  namedScenes,
  type SceneVerdict,
  withArticle,
} from '../support/shapeland/scenes.ts';
import { printReport } from '../support/tool-output.ts';
import { SIDE, WORLD_OPTIONS, worldOf } from './worlds.ts';

/** What a base is to reach: both, and all three, of the objects; distance of two nouns' attention, of the width. */
const GOALS: Readonly<Record<string, number>> = { 2: 0.75, 3: 0.5 };
const APART = 0.2;
/** Objects in a row want a wide picture. */
const WIDE = 96;

const { values } = parseArgs({
  options: {
    ...WORLD_OPTIONS,
    world: { ...WORLD_OPTIONS.world, default: 'tiny-world-xl' },
    count: { type: 'string', default: '100' },
    objects: { type: 'string', default: '1,2,3' },
    maps: { type: 'string', default: '32' },
    steps: { type: 'string' },
    sampler: { type: 'string' },
    seed: { type: 'string', default: '1' },
    out: { type: 'string' },
    json: { type: 'boolean' },
  },
});
const [COUNT, MAPS, SEED] = [values.count, values.maps, values.seed].map(Number) as [number, number, number];
const world = await worldOf(values);
const { base, quick, sceneSizes } = world;
const sampling = {
  ...quick,
  sampler: values.sampler ?? quick.sampler,
  steps: Number(values.steps ?? quick.steps),
};

interface Drawn extends NamedScene {
  readonly size: readonly [number, number];
  readonly verdict: SceneVerdict;
}

/** Sizes in turn; pictures of one size one after another, since they share a network. */
async function drawn(scenes: readonly NamedScene[], objects: number): Promise<Drawn[]> {
  const sized = scenes.map((scene, i) => {
    const size = sceneSizes[i % sceneSizes.length]!;
    const inRow = objects > 2 && scene.order === 'x' && size[0] < WIDE;
    return { ...scene, size: inRow ? ([2 * SIDE, SIDE] as const) : size, seed: SEED + i };
  });
  const found: Drawn[] = [];
  const pipeline = await Pipeline.create(base, {});
  try {
    const sizes = new Map(sized.map(({ size }) => [size.join(), size]));
    for (const [width, height] of sizes.values()) {
      const own = sized.filter(({ size }) => size[0] === width && size[1] === height);
      for (const { seed, ...scene } of own) {
        const [picture] = await pipeline.sample({ ...sampling, prompt: scene.text, width, height, seed });
        found.push({ ...scene, verdict: judgeScene(picture!, scene) });
        await keep(`${objects}-${seed}`, picture!);
      }
    }
  } finally {
    await pipeline.dispose();
  }
  return found;
}

async function keep(name: string, picture: Picture): Promise<void> {
  if (values.out === undefined) return;
  mkdirSync(values.out, { recursive: true });
  writeFileSync(path.join(values.out, `${name}.png`), await encodePng(picture));
}

interface Apart {
  readonly level: string;
  /** Distances of the centroids, of the picture's width. */
  readonly distances: number[];
  /** Whether the first stands to the left. */
  readonly inOrder: boolean[];
}

/** Of two nouns in "A to the left of B", by resolution. */
async function attentionApart(): Promise<Apart[]> {
  const [width, height] = [WIDE, SIDE];
  const levels = new Map<string, Apart>();
  for (const [i, { objects }] of namedScenes(MAPS, 2, SEED + 100).entries()) {
    const [left, right] = objects.map((words) => withArticle(words.join(' ')));
    const words = objects.map(([, shape]) => shape);
    const { maps } = await attentionMaps({
      base,
      prompt: `${left} to the left of ${right}`,
      words,
      seed: SEED + i,
      sampling: { ...sampling, width, height },
    });
    const own = maps.filter(({ word }) => word === words[0]);
    for (const first of own) {
      const second = maps.find((map) => map.word === words[1] && map.width === first.width)!;
      const [a, b] = [centroid(first), centroid(second)];
      const level = `${first.width} × ${first.height}`;
      const known = levels.get(level) ?? { level, distances: [], inOrder: [] };
      known.distances.push(Math.hypot(a.x - b.x, ((a.y - b.y) * height) / width));
      known.inOrder.push(a.x < b.x);
      levels.set(level, known);
    }
  }
  return [...levels.values()];
}

/** Of the width and of the height. */
function centroid({ values: map, width, height }: { values: Float32Array; width: number; height: number }) {
  let [total, x, y] = [0, 0, 0];
  map.forEach((value, n) => {
    total += value;
    x += (value * ((n % width) + 0.5)) / width;
    y += (value * (Math.floor(n / width) + 0.5)) / height;
  });
  return { x: x / total, y: y / total };
}

const share = (cases: readonly boolean[]): number => cases.filter(Boolean).length / cases.length;
const percent = (cases: readonly boolean[]): string =>
  cases.length === 0 ? '–' : `${Math.round(100 * share(cases))} %`;
const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const verdict = (reached: boolean): string => (reached ? 'reached' : 'missed');

const rows: Record<string, string | number>[] = [];
const details: Record<string, unknown> = {};
for (const objects of values.objects.split(',').map(Number)) {
  const scenes = await drawn(namedScenes(COUNT, objects, SEED), objects);
  const of = (which: keyof SceneVerdict, some: readonly Drawn[] = scenes): boolean[] =>
    some.map((scene) => scene.verdict[which]);
  const goal = GOALS[objects];
  rows.push({
    objects,
    all: percent(of('all')),
    placed: percent(of('placed')),
    exact: percent(of('exact')),
    'placed, where the text says so': percent(
      of(
        'placed',
        scenes.filter(({ order }) => order !== null),
      ),
    ),
    goal: goal === undefined ? '–' : `${Math.round(100 * goal)} %: ${verdict(share(of('all')) >= goal)}`,
  });
  details[objects] = scenes;
}
const apart = MAPS === 0 ? [] : await attentionApart();
printReport({
  title: `Things named in one prompt, ${values.world}, ${COUNT} pictures each`,
  rows,
  notes: [
    'all: every object is there, colour and shape; placed: and where the text says; exact: and nothing else is',
    ...apart.map(
      ({ level, distances, inOrder }) =>
        `attention of two nouns at ${level}: ${mean(distances).toFixed(3)} of the width apart (goal ${APART}: ${verdict(mean(distances) >= APART)}), the left one to the left in ${percent(inOrder)} of ${MAPS}`,
    ),
    `${sampling.sampler}, ${sampling.steps} steps, guidance ${sampling.guidanceScale}; ${sceneSizes.map(([w, h]) => `${w} × ${h}`).join(', ')} in turn`,
  ],
  details: { scenes: details, apart },
});
