/**
 * What evaluations draw in: a miniature, its concepts and how prompts call them, and the sizes and samplers by which it is measured.
 * `--world` names an entry, `--folder` another place where its files lie; nobody asks which one it is.
 */
import path from 'node:path';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { packageRoot } from '../../src/package-root.ts';
import type { PipelineParts } from '../../src/sampling/sample.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { wordsOf } from './identity.ts';

/** Pixels of the square pictures that show one thing; the detectors of concepts were made for it. */
export const SIDE = 64;

/** How pictures of a world are drawn. */
interface WorldSampling {
  readonly sampler: string;
  readonly steps: number;
  readonly guidanceScale: number;
}

interface ConceptEntry {
  readonly name: ConceptName;
  /** Inside the world's folder. */
  readonly file: string;
  /** What prompts call it. */
  readonly phrase: string;
}

interface WorldEntry {
  /** In the order in which sets are made of them. */
  readonly concepts: readonly ConceptEntry[];
  /** What `eval:fusion` puts into one model. */
  readonly sets: readonly (readonly ConceptName[])[];
  /** Width and height of pictures that show so many concepts, asked for by one prompt. */
  readonly canvases: Readonly<Record<number, readonly [width: number, height: number]>>;
  /** Sizes at which it learned scenes of several things. */
  readonly sceneSizes: readonly (readonly [width: number, height: number])[];
  /** Of many pictures of one thing, and of pictures whose parts are compared. */
  readonly quick: WorldSampling;
  readonly careful: WorldSampling;
}

const edlora = (name: ConceptName, ending: string): ConceptEntry => ({
  name,
  file: `concepts/edlora_${name}.${ending}`,
  phrase: wordsOf(name),
});

export const WORLDS = {
  'tiny-world': {
    concepts: (['smiley', 'bullseye', 'beachball', 'checker'] as const).map((name) => edlora(name, 'pth')),
    sets: [
      ['smiley', 'bullseye'],
      ['smiley', 'bullseye', 'beachball'],
      ['smiley', 'bullseye', 'beachball', 'checker'],
    ],
    canvases: { 2: [128, 64], 3: [192, 64], 4: [256, 64] },
    sceneSizes: [[128, 64]],
    // 8 steps find single concepts as often as 25 do (67, 67, 65 of 80 against 66, 69, 62).
    quick: { sampler: 'dpmpp-2m', steps: 8, guidanceScale: 4 },
    careful: { sampler: 'ddim', steps: 25, guidanceScale: 4 },
  },
  'tiny-world-xl': {
    concepts: [
      edlora('smiley', 'safetensors'),
      edlora('bullseye', 'safetensors'),
      { name: 'beachball', file: 'concepts/beachball.safetensors', phrase: 'bchbll ball' },
      { name: 'checker', file: 'concepts/checker.safetensors', phrase: 'chkr board' },
    ],
    sets: [
      ['smiley', 'bullseye'],
      ['beachball', 'checker'],
      ['smiley', 'bullseye', 'beachball', 'checker'],
    ],
    // One prompt draws things twice where it is wider than 128 pixels; three places of 128 pixels are too narrow for what concepts learned.
    canvases: { 2: [128, 64], 3: [192, 64], 4: [256, 64] },
    sceneSizes: [
      [64, 64],
      [96, 64],
      [64, 96],
      [96, 96],
      [128, 64],
      [128, 96],
    ],
    quick: { sampler: 'dpmpp-2m', steps: 8, guidanceScale: 4 },
    careful: { sampler: 'euler', steps: 25, guidanceScale: 4 },
  },
} as const satisfies Record<string, WorldEntry>;

export type WorldName = keyof typeof WORLDS;

/** A concept that prompts can call. */
export interface WorldConcept extends ConceptEntry {
  readonly concept: Concept;
  /** Folder with the pictures that it was trained on. */
  readonly pictures: string;
}

/** An opened entry. */
export interface World extends WorldEntry {
  readonly base: Checkpoint;
  /** Folder of a CLIP model that knows the drawn world. */
  readonly clip: string;
  /** File of prompts with `<TOK>`. */
  readonly prompts: string;
  concept(name: ConceptName): Promise<WorldConcept>;
}

/** @param folder where its files lie. Default: where they are shipped */
export async function openWorld(
  name: WorldName,
  folder = path.join(packageRoot(), 'fixtures', name),
): Promise<World> {
  const entry: WorldEntry = WORLDS[name];
  // Both miniatures draw the same world; one of them has a CLIP model that judges it.
  const judge = path.join(packageRoot(), 'fixtures/tiny-world/model');
  return {
    ...entry,
    base: await openCheckpoint(path.join(folder, 'model')),
    clip: path.join(judge, 'clip'),
    prompts: path.join(judge, 'evaluation_prompts.txt'),
    concept: async (wanted) => {
      const own = entry.concepts.find((concept) => concept.name === wanted);
      if (own === undefined) throw new Error(`${name} has no concept ${wanted}`);
      const concept = await loadConcept(path.join(folder, own.file));
      return { ...own, concept, pictures: path.join(folder, 'concepts', wanted) };
    },
  };
}

/** `--world` and `--folder` of an evaluation, for `parseArgs`. */
export const WORLD_OPTIONS = {
  world: { type: 'string', default: 'tiny-world' },
  folder: { type: 'string' },
} as const;

export async function worldOf({ world, folder }: { world: string; folder?: string }): Promise<World> {
  if (!Object.hasOwn(WORLDS, world)) {
    throw new Error(`--world: expected ${Object.keys(WORLDS).join(' or ')}, got ${world}`);
  }
  return openWorld(world as WorldName, folder);
}

/** Words of a base and of concepts. */
export function vocabularyOf(
  { base }: World,
  concepts: readonly WorldConcept[],
): NonNullable<PipelineParts['vocabulary']> {
  return bindConcepts(
    base.parts.tokenizers,
    concepts.map(({ concept }) => concept),
    base.parts.layers.contextCount,
  );
}
