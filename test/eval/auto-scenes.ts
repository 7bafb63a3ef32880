/**
 * Several concepts in one prompt and no boxes: how often are all of them there, each once and by itself? The plain sum of their LoRAs,
 * their fusion, LoRA Switch and Composite, places from one step as FreeFuse takes them, places as edlora finds them, and boxes drawn
 * for them. What a picture costs stands beside it.
 */
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { PlaceFinderName } from '../../src/sampling/auto-regions/place-finder.ts';
import { regionTexts } from '../../src/sampling/auto-regions/region-texts.ts';
import type { CombinationName } from '../../src/sampling/combine.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { type ConceptMatch, conceptPlace } from '../support/shapeland/concept-detector.ts';
import type { Picture } from '../support/shapeland/picture.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { fusedModel } from './draw.ts';
import { vocabularyOf, type World, type WorldConcept } from './worlds.ts';

export interface AutoSettings {
  readonly samples: number;
  readonly steps: number;
  /** Concepts that stand in one picture. */
  readonly sets: readonly (readonly ConceptName[])[];
  /** Which rows. Default: all. */
  readonly methods?: readonly string[];
  /** Told of every row as it is there. */
  readonly onRow: (row: Record<string, string>) => void;
}

/** `{}` is the list of the concepts. */
const TEMPLATES = ['{}', 'photo of {}', '{} on a blue background', 'a picture of {}'];

type Scene = readonly WorldConcept[];

const groupsOf = (scene: Scene): string[][] => scene.map(({ phrase }) => phrase.split(' '));

function found(
  prompt: string,
  scene: Scene,
  settings: { readonly finder?: PlaceFinderName; readonly restart?: boolean },
  isolate = 0,
): Partial<SampleRequest> {
  const groups = groupsOf(scene);
  const { regions, background } = regionTexts(prompt, groups);
  return {
    prompt,
    isolate,
    concepts: [],
    autoRegions: {
      ...settings,
      background,
      regions: regions.map((text, i) => ({ prompt: text, words: groups[i]!, concepts: [{ concept: i }] })),
    },
  };
}

function drawn(prompt: string, scene: Scene): Partial<SampleRequest> {
  const { regions, background } = regionTexts(prompt, groupsOf(scene));
  const edge = (i: number): number => i / scene.length;
  return {
    prompt: background,
    concepts: [],
    regions: regions.map((text, i) => ({
      prompt: text,
      concepts: [{ concept: i }],
      shape: { kind: 'box', box: { top: 0, bottom: 1, left: edge(i), right: edge(i + 1) } },
    })),
  };
}

const combined = (prompt: string, combine: CombinationName): Partial<SampleRequest> => ({ prompt, combine });

/** What is drawn for a prompt. `fused` is drawn by the fusion, everything else by the concepts' own files. */
const METHODS: Readonly<Record<string, (prompt: string, scene: Scene) => Partial<SampleRequest>>> = {
  'sum of LoRAs': (prompt) => combined(prompt, 'sum'),
  fused: (prompt) => ({ prompt }),
  'LoRA Switch': (prompt) => combined(prompt, 'switch'),
  'LoRA Composite': (prompt) => combined(prompt, 'composite'),
  'one step, hard (FreeFuse)': (prompt, scene) => found(prompt, scene, { finder: 'one-step' }),
  'found places': (prompt, scene) => found(prompt, scene, {}),
  'found places, going on': (prompt, scene) => found(prompt, scene, { restart: false }),
  'found places, half isolated': (prompt, scene) => found(prompt, scene, {}, 0.5),
  'found places, isolated': (prompt, scene) => found(prompt, scene, {}, 1),
  'found places, going on, isolated': (prompt, scene) => found(prompt, scene, { restart: false }, 1),
  'drawn boxes': drawn,
  'drawn boxes, half isolated': (prompt, scene) => ({ ...drawn(prompt, scene), isolate: 0.5 }),
  'drawn boxes, isolated': (prompt, scene) => ({ ...drawn(prompt, scene), isolate: 1 }),
};

/** What is to be seen of the concepts of a scene. */
interface Verdict {
  readonly present: readonly boolean[];
  /** Some concept is there twice. */
  readonly doubled: boolean;
  /** Two concepts were found in one object. */
  readonly mixed: boolean;
}

function judge(picture: Picture, scene: Scene): Verdict {
  const matches = scene.map(({ name }) => conceptPlace(picture, name));
  const doubled = scene.some(({ name }, i) => {
    const match = matches[i]!;
    return match !== null && conceptPlace(without(picture, match), name) !== null;
  });
  const mixed = matches.some((own, i) =>
    matches.some(
      (other, j) => j < i && own && other && Math.hypot(own.cx - other.cx, own.cy - other.cy) < own.radius,
    ),
  );
  return { present: matches.map((match) => match !== null), doubled, mixed };
}

/** The picture with a match painted over in gray. */
function without(picture: Picture, { cx, cy, radius }: ConceptMatch): Picture {
  const data = picture.data.slice();
  for (let i = 0; i < data.length / 3; i++) {
    const [x, y] = [i % picture.width, Math.floor(i / picture.width)];
    if (Math.hypot(x - cx, y - cy) <= 1.3 * radius) data.fill(128, 3 * i, 3 * i + 3);
  }
  return { ...picture, data };
}

const cpuSeconds = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

/** `a <smiley1> <smiley2>, a <bullseye1> <bullseye2> and a chkr board` */
function listed(scene: Scene): string {
  const all = scene.map(({ phrase }) => `a ${phrase}`);
  return `${all.slice(0, -1).join(', ')} and ${all.at(-1)}`;
}

/** One row per method and set of concepts. */
export async function autoScenes(world: World, settings: AutoSettings): Promise<Record<string, string>[]> {
  const { base, canvases } = world;
  const { samples, steps, methods = Object.keys(METHODS) } = settings;
  const rows: Record<string, string>[] = [];
  for (const names of settings.sets) {
    const scene: WorldConcept[] = [];
    for (const name of names) scene.push(await world.concept(name));
    const placedDeltas = [];
    for (const { concept } of scene) placedDeltas.push(await conceptDeltas(base, concept));
    const own: PipelineParts = { placedDeltas, vocabulary: vocabularyOf(world, scene) };
    const [width, height] = canvases[names.length]!;
    let plain = 0;
    for (const [method, requestOf] of Object.entries(METHODS)) {
      if (!methods.includes(method)) continue;
      const parts =
        method === 'fused'
          ? fusedModel(await fuse({ base, concepts: scene.map(({ concept }) => ({ concept })) }))
          : own;
      const pipeline = await Pipeline.create(base, parts);
      const verdicts: Verdict[] = [];
      let seconds = 0;
      try {
        for (const [t, template] of TEMPLATES.entries()) {
          const prompt = template.replace('{}', listed(scene));
          const before = cpuSeconds();
          const pictures = await pipeline.sample({
            prompt,
            ...requestOf(prompt, scene),
            width,
            height,
            ...world.quick,
            steps,
            seed: t * samples,
            count: Math.ceil(samples / TEMPLATES.length),
          });
          seconds += cpuSeconds() - before;
          verdicts.push(...pictures.map((picture) => judge(picture, scene)));
        }
      } finally {
        await pipeline.dispose();
      }
      const share = (cases: (verdict: Verdict) => boolean): string =>
        `${Math.round((100 * verdicts.filter(cases).length) / verdicts.length)} %`;
      const each = seconds / verdicts.length;
      if (plain === 0) plain = each;
      const row = {
        concepts: String(names.length),
        method,
        'all, once each': share(
          ({ present, doubled, mixed }) => present.every(Boolean) && !doubled && !mixed,
        ),
        all: share(({ present }) => present.every(Boolean)),
        ...Object.fromEntries(names.map((name, i) => [name, share(({ present }) => present[i]!)])),
        doubled: share(({ doubled }) => doubled),
        mixed: share(({ mixed }) => mixed),
        'CPU s a picture': each.toFixed(2),
        'to the first': `${(each / plain).toFixed(2)} ×`,
      };
      settings.onRow(row);
      rows.push(row);
    }
  }
  return rows;
}
