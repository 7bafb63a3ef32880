/**
 * Draw the same prompts with the same seeds by several models and score the pictures: does the concept survive, is
 * the prompt obeyed? Scores as in Textual Inversion (2208.01618, section 5.2) and Mix-of-Show (2305.18292, section 5.1).
 */

import { UsageError } from '../errors.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ClipEncoder, Embeddings } from '../models/clip/clip-encoder.ts';
import { vaeFactor } from '../models/vae/config.ts';
import type { Progress } from '../progress.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import { checkpointSampler } from '../sampling/checkpoint-schedule.ts';
import { resolveRequest } from '../sampling/request.ts';
import { Pipeline, type PipelineParts } from '../sampling/sample.ts';
import { createSampler } from '../sampling/samplers/create.ts';
import { withDefaults } from '../settings.ts';
import { type BootstrapOptions, bootstrapMean, type Interval } from './bootstrap.ts';
import { withoutConcept, withWords } from './prompt-sets.ts';
import { imageAlignment, mean, similarities, textAlignment } from './similarity.ts';

/** A model to judge. */
export interface Variant {
  /** Names it in tables, e.g. `fused`; each once. */
  readonly name: string;
  /** What stands in the concept's place: `<smiley1> <smiley2>`, or the class word for a model without the concept. */
  readonly words: string;
  /** Changes of the base and words it knows. Default none. */
  readonly parts?: PipelineParts;
  /** Default: the request's. */
  readonly base?: Checkpoint;
}

/** How pictures are drawn, the same for all variants. See `SampleRequest` for the meanings. */
export interface EvaluationSampling {
  /** Default 25. */
  readonly steps?: number;
  /** Default 7.5. */
  readonly guidanceScale?: number;
  /** Default `dpmpp-2m`. */
  readonly sampler?: string;
  readonly negativePrompt?: string;
  readonly width?: number;
  readonly height?: number;
}

export interface EvaluateRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  readonly clip: ClipEncoder;
  readonly variants: readonly Variant[];
  /** Pictures of the concept. */
  readonly references: readonly Picture[];
  /** With `<TOK>` in the concept's place. */
  readonly prompts: readonly string[];
  /** Pictures per variant: prompts in turn, each with seeds `seed`, `seed + 1`, … Default 50. */
  readonly samples?: number;
  /** Default 0. */
  readonly seed?: number;
  /** Added to `seed` from one prompt to the next; with 0 all prompts begin with the same noise. Default 0. */
  readonly seedStep?: number;
  readonly sampling?: EvaluationSampling;
  /** Pictures of one prompt in one pass of the UNet. Default 4. */
  readonly batchSize?: number;
  readonly bootstrap?: BootstrapOptions;
  /** Called with every picture as soon as it is drawn, in order; what it returns names the picture in the result. */
  readonly onPicture?: (picture: DrawnSample) => string | Promise<string>;
  readonly onProgress?: (progress: EvaluationProgress) => void;
  readonly signal?: AbortSignal;
}

/** Pictures of one model are held until all of them are scored; papers take a thousand. */
const MAX_SAMPLES = 10_000;

export interface DrawnSample {
  readonly variant: string;
  /** Place among the variant's pictures, from 0. */
  readonly index: number;
  /** As drawn, words in place. */
  readonly prompt: string;
  readonly seed: number;
  readonly picture: Picture;
}

/** Pictures drawn and to draw, over all variants; of an analysis its own steps. */
export interface EvaluationProgress extends Progress {
  /** The model that draws; `style mix` and `attention` for the analyses after it. */
  readonly variant: string;
}

/** One scored picture. */
export interface ScoredSample {
  /** Index among the prompts. */
  readonly prompt: number;
  readonly seed: number;
  /** What `onPicture` returned; empty without it. */
  readonly file: string;
  /** Mean cosine with the reference pictures. */
  readonly imageAlignment: number;
  /** Cosine with the prompt without the concept. */
  readonly textAlignment: number;
}

/** The two alignments, as means with intervals. */
export interface Alignments {
  readonly image: Interval;
  readonly text: Interval;
}

export interface VariantScores extends Alignments {
  readonly name: string;
  readonly words: string;
  readonly samples: readonly ScoredSample[];
  /** Differences to the first variant, paired by prompt and seed; null for the first itself. */
  readonly difference: Alignments | null;
}

export interface Evaluation {
  readonly prompts: readonly string[];
  readonly variants: readonly VariantScores[];
  /** Mean cosine of the reference pictures with one another: what a perfect copy would reach; null for one picture. */
  readonly referenceAlignment: number | null;
  readonly samples: number;
  readonly seed: number;
  /** Embedding and comparing pictures, without drawing. */
  readonly scoring: { readonly pictures: number; readonly elapsedMs: number };
  readonly elapsedMs: number;
}

/** A prompt and a seed: what pairs pictures of different variants. */
interface Draw {
  readonly prompt: number;
  readonly seeds: number;
}

/**
 * Draw and score.
 * @throws {UsageError} for no variants, prompts or references, two variants of one name, or impossible sampling options
 */
export async function evaluate(request: EvaluateRequest): Promise<Evaluation> {
  const { variants, prompts, references, clip, samples = 50, seed = 0 } = request;
  await checkEvaluation(request);
  const started = performance.now();
  const scoring = { pictures: 0, elapsedMs: 0 };
  const timed = async <T>(pictures: number, work: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    const result = await work();
    scoring.elapsedMs += performance.now() - start;
    scoring.pictures += pictures;
    return result;
  };
  const referenceEmbeddings = await timed(references.length, () => clip.pictures(references));
  const texts = await clip.texts(prompts.map(withoutConcept));
  const plan = drawPlan(prompts.length, samples);
  const results: VariantScores[] = [];
  for (const [done, variant] of variants.entries()) {
    const drawn = await drawVariant(request, variant, plan, done * samples, samples);
    const embeddings = await timed(drawn.length, () => clip.pictures(drawn.map(({ picture }) => picture)));
    const image = imageAlignment(embeddings, referenceEmbeddings);
    const text = textAlignment(
      embeddings,
      rowsOf(
        texts,
        drawn.map(({ prompt }) => prompt),
      ),
    );
    const scored = drawn.map(
      ({ prompt, seed, file }, i): ScoredSample => ({
        prompt,
        seed,
        file,
        imageAlignment: image[i]!,
        textAlignment: text[i]!,
      }),
    );
    results.push(summarised(variant, scored, results[0] ?? null, request.bootstrap));
  }
  return {
    prompts,
    variants: results,
    referenceAlignment: amongThemselves(referenceEmbeddings),
    samples,
    seed,
    scoring,
    elapsedMs: performance.now() - started,
  };
}

/** What an evaluation is checked for before any network runs. */
export type PlannedEvaluation = Pick<
  EvaluateRequest,
  'base' | 'prompts' | 'samples' | 'seed' | 'sampling' | 'batchSize'
> & {
  readonly variants: readonly Pick<Variant, 'name' | 'words' | 'base'>[];
  readonly references: readonly unknown[];
};

/**
 * Whether an evaluation can be run on its bases. Runs no network.
 * @throws as `evaluate`, and {FormatError} if a base has no autoencoder, or a schedule that the sampler cannot walk
 */
export async function checkEvaluation(request: PlannedEvaluation): Promise<void> {
  const { base, variants, prompts, references, samples = 50, seed, sampling, batchSize } = request;
  const names = variants.map(({ name }) => name);
  if (names.length === 0) throw new UsageError('evaluate: expected at least one model');
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new UsageError(`evaluate: two models are called "${twice}"; rename one`);
  if (prompts.length === 0) throw new UsageError('evaluate: expected at least one prompt');
  if (references.length === 0) throw new UsageError('evaluate: expected at least one reference picture');
  if (!Number.isSafeInteger(samples) || samples < 1 || samples > MAX_SAMPLES) {
    throw new UsageError(`samples: expected a whole number of 1 … ${MAX_SAMPLES}, got ${samples}`);
  }
  for (const drawing of new Set(variants.map((variant) => variant.base ?? base))) {
    const factor = vaeFactor((await drawing.parts.vae()).config);
    const asked = { ...sampling, prompt: prompts[0]!, seed, batchSize };
    const { sampler, steps } = resolveRequest(asked, drawing, factor, drawing.parts.layers.contextCount);
    createSampler(checkpointSampler(drawing, sampler), steps);
  }
}

/** Prompts in turn, so that any number of samples meets as many prompts as it can. */
function drawPlan(prompts: number, samples: number): Draw[] {
  const every = Math.floor(samples / prompts);
  const more = samples % prompts;
  return Array.from({ length: Math.min(prompts, samples) }, (_, prompt) => ({
    prompt,
    seeds: every + (prompt < more ? 1 : 0),
  }));
}

interface Drawn {
  readonly prompt: number;
  readonly seed: number;
  readonly file: string;
  readonly picture: Picture;
}

async function drawVariant(
  request: EvaluateRequest,
  { name, words, parts = {}, base = request.base }: Variant,
  plan: readonly Draw[],
  before: number,
  samples: number,
): Promise<Drawn[]> {
  const { variants, prompts, seed = 0, seedStep = 0, batchSize = 4, sampling = {} } = request;
  const { runtime, threads, signal } = request;
  const drawn: Drawn[] = [];
  const pipeline = await Pipeline.create(base, withDefaults(parts, { runtime, threads, signal }));
  try {
    for (const { prompt, seeds } of plan) {
      const text = withWords(prompts[prompt]!, words);
      await pipeline.sample(
        { ...sampling, prompt: text, seed: seed + prompt * seedStep, count: seeds, batchSize },
        {
          onPicture: async (picture) => {
            const sample = { variant: name, index: drawn.length, prompt: text, seed: picture.seed, picture };
            const file = (await request.onPicture?.(sample)) ?? '';
            const { width, height, data } = picture;
            drawn.push({ prompt, seed: picture.seed, file, picture: { width, height, data } });
            const done = before + drawn.length;
            request.onProgress?.({ variant: name, done, total: variants.length * samples });
          },
        },
      );
    }
  } finally {
    await pipeline.dispose();
  }
  return drawn;
}

function summarised(
  { name, words }: Variant,
  samples: readonly ScoredSample[],
  first: VariantScores | null,
  options: BootstrapOptions | undefined,
): VariantScores {
  const groups = samples.map(({ prompt }) => prompt);
  const interval = (value: (sample: ScoredSample, i: number) => number): Interval =>
    bootstrapMean(samples.map(value), groups, options);
  return {
    name,
    words,
    samples,
    image: interval((sample) => sample.imageAlignment),
    text: interval((sample) => sample.textAlignment),
    difference:
      first === null
        ? null
        : {
            image: interval((sample, i) => sample.imageAlignment - first.samples[i]!.imageAlignment),
            text: interval((sample, i) => sample.textAlignment - first.samples[i]!.textAlignment),
          },
  };
}

function rowsOf({ width, data }: Embeddings, indices: readonly number[]): Embeddings {
  const rows = new Float32Array(indices.length * width);
  indices.forEach((index, i) => {
    rows.set(data.subarray(index * width, (index + 1) * width), i * width);
  });
  return { count: indices.length, width, data: rows };
}

/** Mean over all pairs of different rows. */
function amongThemselves(embeddings: Embeddings): number | null {
  const { count } = embeddings;
  if (count < 2) return null;
  const others = similarities(embeddings, embeddings).filter((_, i) => Math.floor(i / count) !== i % count);
  return mean(others);
}
