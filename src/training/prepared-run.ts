/**
 * What a training run needs before its first step: settings that go together, pictures as latents, what is trained, and batches. All
 * that can go wrong with a user's words and files goes wrong here.
 */
import path from 'node:path';
import { UsageError } from '../errors.ts';
import type { Picture } from '../formats/picture.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { makeFolder } from '../io/replace-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { vaeFactor } from '../models/vae/config.ts';
import type { Progress } from '../progress.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
  withProgress,
} from '../runtime/execution-context.ts';
import { checkpointSchedule } from '../sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../sampling/noise-schedule.ts';
import { numberedGenerator } from '../tensor/numbered-generator.ts';
import { BatchMaker } from './batch.ts';
import { classPictures } from './class-pictures.ts';
import { withWords } from './data/captions.ts';
import { encodePictures, type TrainingItem } from './data/latent-cache.ts';
import { readTrainingFolder, type TrainingPicture } from './data/training-folder.ts';
import { TRAINING_METHODS } from './methods/index.ts';
import { type ResolvedSettings, resolveSettings, type TrainingMethod } from './methods/method.ts';
import { type TrainingInput, trainingSchema } from './options.ts';
import type { StepLog } from './run-state.ts';
import { type ParameterGroup, planWords, Trainables } from './trainables.ts';

export interface TrainingProgress extends Progress {
  readonly phase: 'class pictures' | 'encoding pictures' | 'training';
  /** While training: the step just done. */
  readonly step?: StepLog & { readonly rates: Readonly<Record<ParameterGroup, number>> };
}

export interface TrainingRequest extends Omit<ExecutionRequest, 'threads'> {
  readonly base: Checkpoint;
  readonly settings: TrainingInput;
  /** Where the state is saved (its folder is made), and class pictures are drawn where no folder is named. Default: it is not saved. */
  readonly stateFile?: string;
  /** Go on from the state file, if there is one. Default false. */
  readonly resume?: boolean;
  readonly onProgress?: (progress: TrainingProgress) => void;
  /** Called with each sample picture, every `sampleEvery` steps. */
  readonly onSample?: (picture: Picture, step: number) => void | Promise<void>;
  /** Stops between two steps; the state is saved first. */
  readonly signal?: AbortSignal;
}

export interface PreparedRun {
  readonly method: TrainingMethod;
  readonly settings: ResolvedSettings;
  readonly trainables: Trainables;
  readonly batches: BatchMaker;
  /** Pictures, and views of them, that are trained on. */
  readonly counts: { readonly pictures: number; readonly views: number };
  readonly execution: ExecutionContext;
}

/** Purposes of a run's random numbers: each has generators of its own. */
export const RANDOM = { start: 0, views: 1, classViews: 2, step: 3 } as const;

/** Settings checked and completed with the method's defaults. @throws {UsageError} naming each wrong one */
export function trainingSettings(input: TrainingInput): {
  method: TrainingMethod;
  settings: ResolvedSettings;
} {
  const parsed = safeParse(trainingSchema, input);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      ({ path, message }) => `${path.join('.') || 'settings'}: ${message}`,
    );
    throw new UsageError(problems.join('\n'));
  }
  const method = TRAINING_METHODS[parsed.data.method];
  return { method, settings: resolveSettings(method, parsed.data) };
}

/** @throws {UsageError | FormatError} as `train` */
export async function prepareRun(request: TrainingRequest): Promise<PreparedRun> {
  const { base, onProgress } = request;
  const { method, settings } = trainingSettings(request.settings);
  const schedule = checkpointSchedule(base);
  const prediction = predictionOf(base, schedule.predictionType);
  const execution = executionContext({ ...request, threads: settings.threads });
  if (request.stateFile !== undefined) await makeFolder(path.dirname(path.resolve(request.stateFile)));
  const pictures = await readTrainingFolder(settings.data, settings);
  const plan = planWords(settings, pictures.length);
  checkCaptions(pictures, settings, plan.words);
  const random = numberedGenerator(settings.seed, RANDOM.start, 0);
  const trainables = new Trainables(base, method, settings, plan, random);
  if (trainables.parameters().length === 0) {
    throw new UsageError('nothing is trained: name words with `token`, or set learning rates above 0');
  }
  const vae = await base.parts.vae();
  const resolution = settings.resolution ?? base.parts.unet.config.sampleSize * vaeFactor(vae.config);
  const encode = (files: readonly TrainingPicture[], purpose: number): Promise<TrainingItem[]> =>
    encodePictures(
      vae,
      files,
      { ...settings, resolution },
      numberedGenerator(settings.seed, purpose, 0),
      withProgress(execution, (done: number) =>
        onProgress?.({ phase: 'encoding pictures', done, total: files.length }),
      ),
    );
  const items = await encode(pictures, RANDOM.views);
  const keepsPrior = method.prior && settings.priorWeight > 0;
  const classItems = keepsPrior
    ? await encode(await classPicturesOf(request, settings, execution), RANDOM.classViews)
    : [];
  const batches = new BatchMaker({
    items,
    classItems,
    settings,
    trainables,
    window: base.parts.maxPositions,
    schedule: noiseSchedule(schedule),
    unet: base.parts.unet.config,
    prediction,
  });
  const counts = { pictures: pictures.length, views: items.length };
  return { method, settings, trainables, batches, counts, execution };
}

function predictionOf(base: Checkpoint, type: string): 'epsilon' | 'v_prediction' {
  if (type === 'epsilon' || type === 'v_prediction') return type;
  throw new UsageError(`${base.path}: expected a base that predicts noise or v, got ${type}`);
}

function classPicturesOf(
  request: TrainingRequest,
  settings: ResolvedSettings,
  execution: ExecutionContext,
): Promise<TrainingPicture[]> {
  const folder =
    settings.classData !== '' ? settings.classData : `${request.stateFile ?? settings.data}-class`;
  const { base, onProgress } = request;
  return classPictures(base, folder, {
    classPrompt: settings.classPrompt,
    classImages: settings.classImages,
    seed: settings.seed,
    unrecorded: settings.classData !== '',
    execution: withProgress(execution, (done: number) =>
      onProgress?.({ phase: 'class pictures', done, total: settings.classImages }),
    ),
  });
}

/** Words that no caption has would never be trained. */
function checkCaptions(
  pictures: readonly TrainingPicture[],
  settings: ResolvedSettings,
  words: readonly string[],
): void {
  if (words.length === 0) return;
  const matcher = new WordMatcher(words, PROMPT_WORDS);
  const without = pictures.filter(
    ({ caption }) => settings.templates === 'none' && matcher.find(withWords(caption, words)).length === 0,
  );
  if (without.length === pictures.length) {
    throw new UsageError(
      `${settings.data}: no caption has ${words.join(' ')} or <TOK> (the first is "${pictures[0]!.caption}"); write <TOK> where the words belong`,
    );
  }
}
