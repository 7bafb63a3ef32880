/**
 * Several concepts in one prompt and no boxes: pictures of each way to draw them, and what is to be seen in them. The plain sum of
 * their LoRAs, their fusion, LoRA Switch and Composite, places from one step as FreeFuse takes them, places as edlora finds them, and
 * boxes drawn for them.
 */
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { AUTO_ISOLATE } from '../../src/sampling/auto-regions/auto-regions.ts';
import type { PlaceFinderName } from '../../src/sampling/auto-regions/place-finder.ts';
import { regionTexts } from '../../src/sampling/auto-regions/region-texts.ts';
import type { CombinationName } from '../../src/sampling/combine.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts, type SampledPicture } from '../../src/sampling/sample.ts';
import { type ConceptMatch, conceptPlace } from '../support/shapeland/concept-detector.ts';
import type { Picture } from '../support/shapeland/picture.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { vocabularyOf, type World, type WorldConcept } from './worlds.ts';

/** `{}` is the list of the concepts. */
export const AUTO_TEMPLATES = ['{}', 'photo of {}', '{} on a blue background', 'a picture of {}'];

export type Scene = readonly WorldConcept[];

const groupsOf = (scene: Scene): string[][] => scene.map(({ phrase }) => phrase.split(' '));

interface Finding {
  readonly finder?: PlaceFinderName;
  readonly restart?: boolean;
  readonly isolate?: number;
}

function found(prompt: string, scene: Scene, { isolate, ...settings }: Finding = {}): Partial<SampleRequest> {
  const groups = groupsOf(scene);
  const { regions, background } = regionTexts(prompt, groups);
  return {
    prompt,
    ...(isolate === undefined ? {} : { isolate }),
    concepts: [],
    autoRegions: {
      ...settings,
      background,
      regions: regions.map((text, i) => ({ prompt: text, words: groups[i]!, concepts: [{ concept: i }] })),
    },
  };
}

function drawn(prompt: string, scene: Scene, isolate: number): Partial<SampleRequest> {
  const { regions, background } = regionTexts(prompt, groupsOf(scene));
  const edge = (i: number): number => i / scene.length;
  return {
    prompt: background,
    isolate,
    concepts: [],
    regions: regions.map((text, i) => ({
      prompt: text,
      concepts: [{ concept: i }],
      shape: { kind: 'box', box: { top: 0, bottom: 1, left: edge(i), right: edge(i + 1) } },
    })),
  };
}

const combined = (prompt: string, combine: CombinationName): Partial<SampleRequest> => ({ prompt, combine });

export interface AutoMethod {
  readonly name: string;
  /** Whether it is a setting of another one, drawn where it is asked for. */
  readonly variant?: boolean;
  /** Whether the concepts' fusion draws, in place of their own files. */
  readonly fused?: boolean;
  readonly request: (prompt: string, scene: Scene) => Partial<SampleRequest>;
}

/** The first is what costs are compared with. */
export const AUTO_METHODS: readonly AutoMethod[] = [
  { name: 'sum of LoRAs', request: (prompt) => combined(prompt, 'sum') },
  { name: 'fused', fused: true, request: (prompt) => ({ prompt }) },
  { name: 'LoRA Switch', request: (prompt) => combined(prompt, 'switch') },
  { name: 'LoRA Composite', request: (prompt) => combined(prompt, 'composite') },
  {
    name: 'one step, hard (FreeFuse)',
    request: (prompt, scene) => found(prompt, scene, { finder: 'one-step', restart: true, isolate: 0 }),
  },
  { name: 'found places', request: found },
  ...[true, false].flatMap((restart) =>
    [0, 0.5, 1].map((isolate): AutoMethod => {
      const name = `found places, ${restart ? 'begun anew' : 'going on'}, isolate ${isolate}`;
      return { name, variant: true, request: (prompt, scene) => found(prompt, scene, { restart, isolate }) };
    }),
  ),
  { name: 'drawn boxes', request: (prompt, scene) => drawn(prompt, scene, AUTO_ISOLATE) },
  ...[0, 1].map((isolate): AutoMethod => {
    const name = `drawn boxes, isolate ${isolate}`;
    return { name, variant: true, request: (prompt, scene) => drawn(prompt, scene, isolate) };
  }),
];

/** What is to be seen of the concepts of a scene. */
export interface Verdict {
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

/** Some of the pictures of one way to draw a set of concepts. */
export interface AutoJob {
  readonly concepts: readonly ConceptName[];
  readonly method: string;
  /** Of the samples: the first, and one past the last. */
  readonly from: number;
  readonly to: number;
  /** Folder of the concepts' fusion, where that draws. */
  readonly fusion?: string;
}

export interface AutoPictures {
  readonly verdicts: readonly Verdict[];
  /** Of processors, decoding included. */
  readonly seconds: number;
}

/** A world in which such jobs are done. What one job loaded serves the next. */
export class AutoBench {
  readonly #world: World;
  readonly #samples: number;
  readonly #steps: number;
  readonly #onPicture: (job: AutoJob, picture: SampledPicture) => Promise<void>;
  #opened: { key: string; pipeline: Pipeline; scene: Scene } | null = null;

  /** @param samples of every row: they share the templates evenly */
  constructor(
    world: World,
    { samples, steps }: { readonly samples: number; readonly steps: number },
    onPicture: (job: AutoJob, picture: SampledPicture) => Promise<void> = async () => {},
  ) {
    this.#world = world;
    this.#samples = samples;
    this.#steps = steps;
    this.#onPicture = onPicture;
  }

  async run(job: AutoJob): Promise<AutoPictures> {
    const world = this.#world;
    const { request } = AUTO_METHODS.find(({ name }) => name === job.method)!;
    const { pipeline, scene } = await this.#open(job);
    const [width, height] = world.canvases[scene.length]!;
    const each = this.#samples / AUTO_TEMPLATES.length;
    const verdicts: Verdict[] = [];
    let seconds = 0;
    for (const [t, template] of AUTO_TEMPLATES.entries()) {
      const [from, to] = [Math.max(job.from, t * each), Math.min(job.to, (t + 1) * each)];
      if (from >= to) continue;
      const prompt = template.replace('{}', listed(scene));
      const before = cpuSeconds();
      const pictures = await pipeline.sample({
        prompt,
        ...request(prompt, scene),
        width,
        height,
        ...world.quick,
        steps: this.#steps,
        seed: t * this.#samples + (from - t * each),
        count: to - from,
      });
      seconds += cpuSeconds() - before;
      verdicts.push(...pictures.map((picture) => judge(picture, scene)));
      for (const picture of pictures) await this.#onPicture(job, picture);
    }
    return { verdicts, seconds };
  }

  async #open({ concepts, fusion }: AutoJob): Promise<{ pipeline: Pipeline; scene: Scene }> {
    const key = `${concepts.join('+')} ${fusion ?? ''}`;
    if (this.#opened?.key === key) return this.#opened;
    await this.dispose();
    const scene: WorldConcept[] = [];
    for (const name of concepts) scene.push(await this.#world.concept(name));
    const { base } = this.#world;
    // Rows are compared by the processor's time, which threads of one process would share out.
    const parts: PipelineParts = { threads: 1, ...(await this.#parts(scene, fusion)) };
    this.#opened = { key, scene, pipeline: await Pipeline.create(base, parts) };
    return this.#opened;
  }

  async #parts(scene: Scene, fusion: string | undefined): Promise<PipelineParts> {
    const { base } = this.#world;
    if (fusion !== undefined) {
      return openSceneModel({ base: base.path, fused: fusion, concepts: [], loras: [] });
    }
    const placedDeltas = [];
    for (const { concept } of scene) placedDeltas.push(await conceptDeltas(base, concept));
    return { placedDeltas, vocabulary: vocabularyOf(this.#world, scene) };
  }

  async dispose(): Promise<void> {
    await this.#opened?.pipeline.dispose();
    this.#opened = null;
  }
}
