/** The models that `eval:fusion` compares, and what is measured on each. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bootstrapMean, type Interval } from '../../src/evaluation/bootstrap.ts';
import { evaluate } from '../../src/evaluation/evaluate.ts';
import { readPictureFolder } from '../../src/evaluation/picture-folder.ts';
import { loadPrompts } from '../../src/evaluation/prompt-sets.ts';
import { mean } from '../../src/evaluation/similarity.ts';
import { summedParts } from '../../src/evaluation/weight-sum.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { Fusion } from '../../src/fusion/fusion.ts';
import { type FusionOptions, PRESETS } from '../../src/fusion/options.ts';
import type { LowRank } from '../../src/linalg/low-rank.ts';
import { layerContext } from '../../src/merging/merge.ts';
import { MERGE_DEFAULTS, type MergeTerm } from '../../src/merging/method.ts';
import { type MergeMethodName, mergeMethod } from '../../src/merging/methods/index.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { ClipEncoder } from '../../src/models/clip/clip-encoder.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import type { LayerId } from '../../src/models/families/layer-table.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { CONCEPT_THRESHOLDS, conceptScore } from '../support/shapeland/concept-detector.ts';
import { detect } from '../support/shapeland/detect.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { otherPairs } from './identity.ts';
import { trainedJointly } from './joint-training.ts';
import { SIDE, type World, type WorldConcept } from './worlds.ts';

export const OTHER_PROMPTS = 80;
/** The average is the sum at 1 / concepts: three strengths of each count in all. */
export const SUM_STRENGTHS = [0.7, 1] as const;

/** How the concepts of a model come together. */
export type Way =
  | { readonly kind: 'single' }
  | { readonly kind: 'sum'; readonly strength: number }
  | { readonly kind: 'average' }
  | { readonly kind: 'merge'; readonly method: MergeMethodName }
  /** Trained together for so many steps a concept. */
  | { readonly kind: 'joint'; readonly steps: number }
  | { readonly kind: 'fuse'; readonly options: Partial<FusionOptions> };

export interface Job {
  readonly label: string;
  readonly concepts: readonly ConceptName[];
  readonly way: Way;
}

export interface ConceptResult {
  readonly concept: ConceptName;
  readonly identity: number;
  readonly clipI: number;
  readonly clipT: number;
}

export interface JobResult {
  readonly concepts: readonly ConceptResult[];
  /** Over all concepts and prompts. */
  readonly identity: Interval;
  readonly clipI: number;
  readonly clipT: number;
  /** Share of "photo of a COLOUR SHAPE" with both words right. */
  readonly otherPrompts: number;
  readonly pictures: number;
}

/**
 * Single concepts first, then every way for each of the world's sets.
 * @param joint  for how many steps a concept they are also trained together; 0: they are not
 * @param refine by how many steps a concept the default is also refined; 0: it is not
 * @param options of every fusion, beside its own
 */
export function allJobs(
  { concepts, sets }: Pick<World, 'concepts' | 'sets'>,
  {
    joint: jointSteps,
    refine,
    options: others,
  }: { readonly joint: number; readonly refine: number; readonly options: Partial<FusionOptions> },
): Job[] {
  const singles = concepts.map(
    ({ name }): Job => ({ label: 'single', concepts: [name], way: { kind: 'single' } }),
  );
  const joint: [string, Way][] =
    jointSteps === 0 ? [] : [['joint training', { kind: 'joint', steps: jointSteps }]];
  const fused = (options: Partial<FusionOptions>): Way => ({
    kind: 'fuse',
    options: { ...others, ...options },
  });
  const refined = (count: number): [string, Way][] =>
    refine === 0
      ? []
      : [[`the default, refined by ${refine * count} steps`, fused({ refine: refine * count })]];
  const ways = (count: number): [string, Way][] => [
    ...joint,
    ...SUM_STRENGTHS.map((strength): [string, Way] => [`sum ${strength}`, { kind: 'sum', strength }]),
    ['average', { kind: 'average' }],
    ['lbfgs, as published', fused({ ...PRESETS['mix-of-show'], method: 'lbfgs' })],
    ...(['fused', 'own'] as const).flatMap((statistics) =>
      [true, false].map((preserve): [string, Way] => [
        `normal, ${statistics} statistics${preserve ? ', preserve' : ''}`,
        fused({ statistics, ...(preserve ? {} : { preserve: NOTHING }) }),
      ]),
    ),
    ...refined(count),
  ];
  const together = sets.flatMap((names) =>
    ways(names.length).map(([label, way]): Job => ({ label, way, concepts: names })),
  );
  // Measured on the largest set only, to keep the whole within a quarter of an hour.
  const ofFour: [string, Way][] = [
    ['custom-diffusion', fused({ method: 'custom-diffusion' })],
    ['null-space', { kind: 'merge', method: 'null-space' }],
  ];
  return [...singles, ...together, ...ofFour.map(([label, way]) => ({ label, way, concepts: sets.at(-1)! }))];
}

/** Of a process, of which there is one for each core: the miniature's products are too small to share. */
const THREADS = 1;

const NOTHING = { text: 0, cross: 0, spatial: 0 };

/** What the pictures of a concept begin with. */
export interface PictureNoise {
  /** Pictures of each prompt. */
  readonly seeds: number;
  /** Whether every prompt has noise of its own, in place of the same for all. */
  readonly ownNoise: boolean;
}

/** Everything jobs share: opened once per process. */
export class FusionBench {
  readonly #world: World;
  readonly #base: Checkpoint;
  readonly #clip: ClipEncoder;
  readonly #prompts: readonly string[];
  /** Pictures per prompt and concept. */
  readonly #seeds: number;
  /** Whether every prompt has noise of its own. */
  readonly #ownNoise: boolean;
  /** Statistics of one concept serve all jobs. */
  readonly #cache = mkdtempSync(path.join(tmpdir(), 'edlora-eval-'));

  private constructor(world: World, clip: ClipEncoder, prompts: readonly string[], pictures: PictureNoise) {
    this.#world = world;
    this.#base = world.base;
    this.#clip = clip;
    this.#prompts = prompts;
    this.#seeds = pictures.seeds;
    this.#ownNoise = pictures.ownNoise;
  }

  static async open(world: World, pictures: PictureNoise): Promise<FusionBench> {
    const clip = new ClipEncoder(await openClipModel(world.clip));
    return new FusionBench(world, clip, await loadPrompts(world.prompts), pictures);
  }

  async run({ concepts, way }: Job): Promise<JobResult> {
    const own: WorldConcept[] = [];
    for (const name of concepts) own.push(await this.#world.concept(name));
    const loaded =
      way.kind === 'joint'
        ? [await loadConcept(await trainedJointly(concepts, way.steps))]
        : own.map(({ concept }) => concept);
    const parts = { ...(await this.#model(loaded, way)), threads: THREADS };
    const results: ConceptResult[] = [];
    const found: number[] = [];
    const groups: number[] = [];
    for (const [i, { name: concept, phrase, pictures }] of own.entries()) {
      const hits: number[] = [];
      const { variants } = await evaluate({
        base: this.#base,
        clip: this.#clip,
        prompts: this.#prompts,
        samples: this.#seeds * this.#prompts.length,
        references: await readPictureFolder(pictures),
        sampling: this.#sampling,
        batchSize: this.#seeds,
        ...(this.#ownNoise ? { seedStep: this.#seeds } : {}),
        variants: [{ name: concept, words: phrase, parts }],
        onPicture: ({ picture }) => {
          hits.push(conceptScore(picture, concept).score >= CONCEPT_THRESHOLDS[concept] ? 1 : 0);
          return '';
        },
      });
      const [scores] = variants;
      groups.push(...scores!.samples.map(({ prompt }) => i * this.#prompts.length + prompt));
      found.push(...hits);
      results.push({ concept, identity: mean(hits), clipI: scores!.image.mean, clipT: scores!.text.mean });
    }
    return {
      concepts: results,
      identity: bootstrapMean(found, groups),
      clipI: mean(results.map(({ clipI }) => clipI)),
      clipT: mean(results.map(({ clipT }) => clipT)),
      otherPrompts: await this.#others(parts),
      pictures: found.length + OTHER_PROMPTS,
    };
  }

  async #model(concepts: readonly Concept[], way: Way): Promise<PipelineParts> {
    switch (way.kind) {
      case 'single':
      case 'joint':
        return summedParts(this.#base, concepts);
      case 'sum':
        return summedParts(this.#base, concepts, way.strength);
      case 'average':
        return summedParts(this.#base, concepts, 1 / concepts.length);
      case 'merge':
        return {
          ...(await summedParts(this.#base, concepts)),
          deltas: await mergedDeltas(this.#base, concepts, way.method),
        };
      case 'fuse': {
        const { options } = way;
        const request = { base: this.#base, concepts: concepts.map((concept) => ({ concept })), options };
        return fusedParts(await fuse({ ...request, cacheFolder: this.#cache, threads: THREADS }));
      }
    }
  }

  get #sampling() {
    return { ...this.#world.quick, width: SIDE, height: SIDE };
  }

  async #others(parts: PipelineParts): Promise<number> {
    const pipeline = await Pipeline.create(this.#base, parts);
    try {
      let right = 0;
      for (const [i, { colour, shape }] of otherPairs(OTHER_PROMPTS).entries()) {
        const prompt = `photo of a ${colour} ${shape}`;
        const [picture] = await pipeline.sample({ ...this.#sampling, prompt, seed: 1000 + i });
        const seen = detect(picture!);
        if (seen?.colour === colour && seen.shape === shape) right++;
      }
      return right / OTHER_PROMPTS;
    } finally {
      await pipeline.dispose();
    }
  }

  async dispose(): Promise<void> {
    await this.#clip.dispose();
    rmSync(this.#cache, { recursive: true, force: true });
  }
}

/** The concepts' changes merged layer by layer. */
async function mergedDeltas(
  base: Checkpoint,
  concepts: readonly Concept[],
  method: MergeMethodName,
): Promise<ModelDeltas> {
  const terms = new Map<LayerId, MergeTerm[]>();
  for (const concept of concepts) {
    for (const [id, delta] of await conceptDeltas(base, concept)) {
      terms.set(id, [...(terms.get(id) ?? []), { ...delta, scale: 1, strength: 1 }]);
    }
  }
  const merged = new Map<LayerId, LowRank>();
  for (const [id, own] of terms) {
    merged.set(id, await mergeMethod(method).merge(own, layerContext(id, 0, MERGE_DEFAULTS)));
  }
  return merged;
}

function fusedParts({ layers, vocabulary }: Fusion): PipelineParts {
  return { vocabulary, deltas: new Map([...layers].map(([id, { delta }]) => [id, delta])) };
}
