/**
 * Several concepts in one prompt and no boxes: how often are all of them there, each once and by itself? The plain sum of their LoRAs,
 * their fusion, LoRA Switch and Composite, places from one step as FreeFuse takes them, places as edlora finds them, and boxes drawn
 * for them. What a picture costs stands beside it.
 */
import path from 'node:path';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { vaeFactor } from '../../src/models/vae/config.ts';
import type { PlaceFinderName } from '../../src/sampling/auto-regions/place-finder.ts';
import { regionTexts } from '../../src/sampling/auto-regions/region-texts.ts';
import type { CombinationName } from '../../src/sampling/combine.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import {
  CONCEPT_THRESHOLDS,
  type ConceptMatch,
  conceptScore,
} from '../support/shapeland/concept-detector.ts';
import type { Picture } from '../support/shapeland/picture.ts';
import { CONCEPTS, type ConceptName } from '../support/shapeland/world.ts';
import { fusedModel } from './draw.ts';
import { wordsOf } from './identity.ts';

export interface AutoSettings {
  readonly samples: number;
  readonly steps: number;
  /** Folder of the concepts, `edlora_<name>.pth`. */
  readonly concepts: string;
  /** How many concepts stand in one picture. */
  readonly counts: readonly number[];
  /** Told of every row as it is there. */
  readonly onRow: (row: Record<string, string>) => void;
}

/** `{}` is the list of the concepts. */
const TEMPLATES = ['{}', 'photo of {}', '{} on a blue background', 'a picture of {}'];

interface Scene {
  readonly names: readonly ConceptName[];
  readonly concepts: readonly Concept[];
  readonly side: number;
}

const groupsOf = (names: readonly string[]): string[][] => names.map((name) => wordsOf(name).split(' '));

function found(
  prompt: string,
  { names }: Scene,
  settings: { readonly finder?: PlaceFinderName; readonly restart?: boolean },
): Partial<SampleRequest> {
  const groups = groupsOf(names);
  const { regions, background } = regionTexts(prompt, groups);
  return {
    prompt,
    concepts: [],
    autoRegions: {
      ...settings,
      background,
      regions: regions.map((text, i) => ({ prompt: text, words: groups[i]!, concepts: [{ concept: i }] })),
    },
  };
}

function drawn(prompt: string, { names }: Scene): Partial<SampleRequest> {
  const { regions, background } = regionTexts(prompt, groupsOf(names));
  const edge = (i: number): number => i / names.length;
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
  'found places, isolated': (prompt, scene) => ({ ...found(prompt, scene, {}), isolate: 1 }),
  'found places, going on, isolated': (prompt, scene) => ({
    ...found(prompt, scene, { restart: false }),
    isolate: 1,
  }),
  'drawn boxes': drawn,
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

function judge(picture: Picture, names: readonly ConceptName[]): Verdict {
  const matches = names.map((name) => conceptScore(picture, name));
  const present = names.map((name, i) => matches[i]!.score >= CONCEPT_THRESHOLDS[name]);
  const doubled = names.some(
    (name, i) =>
      present[i]! && conceptScore(without(picture, matches[i]!), name).score >= CONCEPT_THRESHOLDS[name],
  );
  const mixed = matches.some((own, i) =>
    matches.some(
      (other, j) =>
        j < i && present[i]! && present[j]! && Math.hypot(own.cx - other.cx, own.cy - other.cy) < own.radius,
    ),
  );
  return { present, doubled, mixed };
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

/** One row per method and number of concepts. */
export async function autoScenes(
  base: Checkpoint,
  settings: AutoSettings,
): Promise<Record<string, string>[]> {
  const { samples, steps } = settings;
  const side = base.parts.unet.config.sampleSize * vaeFactor((await base.parts.vae()).config);
  const rows: Record<string, string>[] = [];
  for (const count of settings.counts) {
    const names = CONCEPTS.slice(0, count);
    const concepts: Concept[] = [];
    for (const name of names) {
      concepts.push(await loadConcept(path.join(settings.concepts, `edlora_${name}.pth`)));
    }
    const scene: Scene = { names, concepts, side };
    const placedDeltas = [];
    for (const concept of concepts) placedDeltas.push(await conceptDeltas(base, concept));
    const vocabulary = bindConcepts(base.parts.tokenizers, concepts, base.parts.layers.contextCount);
    const own: PipelineParts = { placedDeltas, vocabulary };
    const fusion = await fuse({ base, concepts: concepts.map((concept) => ({ concept })) });
    let plain = 0;
    for (const [method, requestOf] of Object.entries(METHODS)) {
      const pipeline = await Pipeline.create(base, method === 'fused' ? fusedModel(fusion) : own);
      const verdicts: Verdict[] = [];
      let seconds = 0;
      try {
        for (const [t, template] of TEMPLATES.entries()) {
          const listed = names.map((name) => `a ${wordsOf(name)}`);
          const list =
            listed.length === 2
              ? listed.join(' and ')
              : `${listed.slice(0, -1).join(', ')} and ${listed.at(-1)}`;
          const prompt = template.replace('{}', list);
          const before = cpuSeconds();
          const pictures = await pipeline.sample({
            ...requestOf(prompt, scene),
            prompt: requestOf(prompt, scene).prompt ?? prompt,
            width: count * side,
            height: side,
            guidanceScale: 4,
            sampler: 'dpmpp-2m',
            steps,
            seed: t * samples,
            count: Math.ceil(samples / TEMPLATES.length),
          });
          seconds += cpuSeconds() - before;
          verdicts.push(...pictures.map((picture) => judge(picture, names)));
        }
      } finally {
        await pipeline.dispose();
      }
      const share = (cases: (verdict: Verdict) => boolean): string =>
        `${Math.round((100 * verdicts.filter(cases).length) / verdicts.length)} %`;
      const each = seconds / verdicts.length;
      if (plain === 0) plain = each;
      const row = {
        concepts: String(count),
        method,
        'all, once each': share(
          ({ present, doubled, mixed }) => present.every(Boolean) && !doubled && !mixed,
        ),
        all: share(({ present }) => present.every(Boolean)),
        ...Object.fromEntries(names.map((name, i) => [name, share(({ present }) => present[i]!)])),
        doubled: share(({ doubled }) => doubled),
        mixed: share(({ mixed }) => mixed),
        'CPU s a picture': each.toFixed(2),
        'of the sum’s': (each / plain).toFixed(2),
      };
      settings.onRow(row);
      rows.push(row);
    }
  }
  return rows;
}
