/**
 * A training run: pictures to latents, then steps of loss, gradients and AdamW, resumable at any saved step. The same
 * settings and seed give the same numbers, whether the run was interrupted or not.
 */

import path from 'node:path';
import type { ConceptToken } from '../concepts/concept.ts';
import type { MergedLayer } from '../concepts/lora-file.ts';
import { bindConcepts } from '../concepts/prompt.ts';
import { InterruptedError, NumericalError, UsageError } from '../errors.ts';
import type { Picture } from '../formats/picture.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { makeFolder } from '../io/replace-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { TOKEN_TABLE } from '../models/clip/text-encoder.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import type { Family } from '../models/families/family.ts';
import { vaeFactor } from '../models/vae/config.ts';
import { type AdamWState, adamwState, adamwStep } from '../optim/adamw.ts';
import { learningRate } from '../optim/learning-rate.ts';
import type { Progress } from '../progress.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
  withProgress,
} from '../runtime/execution-context.ts';
import { checkpointSchedule } from '../sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../sampling/noise-schedule.ts';
import { Pipeline } from '../sampling/sample.ts';
import { numberedGenerator } from '../tensor/numbered-generator.ts';
import { BatchMaker } from './batch.ts';
import { classPictures } from './class-pictures.ts';
import { meanRowNorm } from './concept-embeddings.ts';
import { withWords } from './data/captions.ts';
import { encodePictures, type TrainingItem } from './data/latent-cache.ts';
import { readTrainingFolder, type TrainingPicture } from './data/training-folder.ts';
import { type DensityPenalty, densityPenalty } from './kernel-density.ts';
import { TRAINING_METHODS } from './methods/index.ts';
import { type ResolvedSettings, resolveSettings, type TrainingMethod } from './methods/method.ts';
import { type TrainingInput, trainingSchema } from './options.ts';
import { drawMasks } from './rank-masks.ts';
import { type RunState, restoreState, type StepLog, saveState } from './run-state.ts';
import { TrainingStep } from './step.ts';
import { type ParameterGroup, planWords, Trainables, type TrainedWords } from './trainables.ts';

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

export interface TrainedConcept {
  /** Of the base. */
  readonly family: Family;
  readonly method: TrainingMethod;
  readonly settings: ResolvedSettings;
  readonly tokens: readonly ConceptToken[];
  readonly layers: readonly MergedLayer[];
  readonly log: readonly StepLog[];
  /** Pictures, and views of them, that were trained on. */
  readonly pictures: number;
  readonly views: number;
}

/** Purposes of a run's random numbers: each has generators of its own. */
const RANDOM = { start: 0, views: 1, classViews: 2, step: 3 } as const;

/**
 * Train.
 * @throws {UsageError} for settings, words or starts that cannot be; {FormatError} naming all unusable pictures
 * @throws {NumericalError} if loss or gradients stop being finite: the step is named, the state before it is saved
 */
export async function train(request: TrainingRequest): Promise<TrainedConcept> {
  const run = await TrainingRun.prepare(request);
  try {
    return await run.finish();
  } finally {
    await run.dispose();
  }
}

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

class TrainingRun {
  readonly #request: TrainingRequest;
  readonly #method: TrainingMethod;
  readonly #settings: ResolvedSettings;
  readonly #trainables: Trainables;
  readonly #batches: BatchMaker;
  readonly #step: TrainingStep;
  readonly #state: RunState;
  /** Whether no state of this run has been saved, in this process or before. */
  #savedNone = true;
  /** By the parameter's name; empty without the term. */
  readonly #density: ReadonlyMap<string, DensityPenalty>;
  readonly #execution: ExecutionContext;
  readonly #counts: { readonly pictures: number; readonly views: number };

  private constructor(
    request: TrainingRequest,
    method: TrainingMethod,
    settings: ResolvedSettings,
    trainables: Trainables,
    batches: BatchMaker,
    counts: { readonly pictures: number; readonly views: number },
    execution: ExecutionContext,
  ) {
    this.#request = request;
    this.#method = method;
    this.#settings = settings;
    this.#trainables = trainables;
    this.#batches = batches;
    this.#counts = counts;
    this.#execution = execution;
    const optimizer = new Map<string, AdamWState>(
      trainables.parameters().map(({ name, data }) => [name, adamwState(data.length)]),
    );
    this.#state = { step: 0, stopped: false, optimizer, log: [] };
    this.#step = new TrainingStep(
      request.base,
      new Map([...trainables.words].map(([id, { table }]) => [id, table])),
      trainables.wordCount * trainables.rowsPerWord,
      {
        ranks: trainables.ranks(),
        firstTrainedId: settings.lrEmbedding === 0 ? null : (trainables.vocabulary.tokens[0]?.ids[0] ?? null),
        layerwise: method.layerwise,
        sharedPrefix: batches.sharedPrefix(),
        attention: settings.attentionWeight > 0 ? { fullIdentity: settings.fullIdentity } : null,
        attentionWeight: settings.attentionWeight,
        detachFirstToken: method.detachFirstToken,
        checkpointBlocks: settings.checkpointBlocks,
      },
      execution,
    );
    this.#density =
      settings.kdeWeight > 0
        ? vocabularyPenalties(request.base, trainables, settings.kdeBandwidth)
        : new Map();
  }

  /** Everything that can go wrong before the first step. */
  static async prepare(request: TrainingRequest): Promise<TrainingRun> {
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
    const run = new TrainingRun(request, method, settings, trainables, batches, counts, execution);
    if (request.resume && request.stateFile !== undefined) {
      const parameters = trainables.parameters();
      run.#savedNone = !(await restoreState(request.stateFile, settings, parameters, run.#state));
    }
    return run;
  }

  async finish(): Promise<TrainedConcept> {
    const { signal, onProgress } = this.#request;
    const { steps, saveEvery, sampleEvery } = this.#settings;
    while (this.#state.step < steps) {
      if (signal?.aborted) throw await this.#interrupted(signal.reason);
      const rates = this.#rates();
      const log = await this.#advance(rates).catch(async (error: unknown) => {
        // A step that nobody waited for has changed nothing.
        if (!signal?.aborted || error !== signal.reason) throw error;
        throw await this.#interrupted(error);
      });
      onProgress?.({ phase: 'training', done: log.step, total: steps, step: { ...log, rates } });
      if ((saveEvery > 0 && log.step % saveEvery === 0) || log.step === steps) await this.#save();
      if (sampleEvery > 0 && log.step % sampleEvery === 0) await this.#sample(log.step);
    }
    return {
      family: this.#request.base.family,
      method: this.#method,
      settings: this.#settings,
      tokens: this.#trainables.tokens(),
      layers: await this.#trainables.merged(),
      log: this.#state.log,
      ...this.#counts,
    };
  }

  dispose(): Promise<void> {
    return this.#step.dispose();
  }

  #rates(): Record<ParameterGroup, number> {
    const { schedule, steps, warmup, lrEmbedding, lrText, lrUnet } = this.#settings;
    const at = (rate: number): number => learningRate(schedule, rate, this.#state.step, steps, warmup);
    return { embedding: at(lrEmbedding), text: at(lrText), unet: at(lrUnet) };
  }

  /** One optimiser step. */
  async #advance(rates: Readonly<Record<ParameterGroup, number>>): Promise<StepLog> {
    const { accumulate, seed, weightDecay, maxGradNorm, normStop } = this.#settings;
    const state = this.#state;
    const gradients = new Map<string, Float32Array>();
    let loss = 0;
    for (let part = 0; part < accumulate; part++) {
      const number = state.step * accumulate + part;
      const random = numberedGenerator(seed, RANDOM.step, number);
      const masks = drawMasks(this.#trainables.layers, this.#settings, random);
      const feeds = this.#trainables.feeds(masks);
      const result = await this.#step.run(this.#batches.make(number, random), feeds);
      loss += result.loss / accumulate;
      for (const [name, own] of this.#trainables.gradients(result, masks)) {
        const sum = gradients.get(name) ?? new Float32Array(own.length);
        for (let i = 0; i < own.length; i++) sum[i]! += own[i]! / accumulate;
        gradients.set(name, sum);
      }
    }
    for (const words of this.#trainables.words.values()) {
      const gradient = gradients.get(words.name);
      if (gradient !== undefined) loss += this.#penalties(words, gradient);
    }
    const norm = totalNorm(gradients.values());
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) await this.#stopDiverged(loss, norm);
    const shrink = maxGradNorm > 0 && norm > maxGradNorm ? maxGradNorm / norm : 1;
    for (const { name, group, data } of this.#trainables.parameters()) {
      const gradient = gradients.get(name);
      if (gradient === undefined || rates[group] === 0 || (group === 'embedding' && state.stopped)) continue;
      if (shrink !== 1) for (let i = 0; i < gradient.length; i++) gradient[i]! *= shrink;
      adamwStep(data, gradient, state.optimizer.get(name)!, rates[group], { weightDecay });
    }
    // Of several text encoders the first one's.
    const [{ rows, table }] = [...this.#trainables.words.values()] as [TrainedWords];
    const embeddingNorm = rows.length === 0 ? 0 : meanRowNorm(rows, table.width);
    if (normStop > 0 && embeddingNorm >= normStop) state.stopped = true;
    state.step++;
    // As the state keeps them, so that a resumed run tells the same.
    const log = { step: state.step, loss: Math.fround(loss), embeddingNorm: Math.fround(embeddingNorm) };
    state.log.push(log);
    return log;
  }

  /** Terms on the embeddings themselves; their gradients are added. */
  #penalties({ name, rows, start }: TrainedWords, gradient: Float32Array): number {
    const { classWeight, kdeWeight } = this.#settings;
    let total = 0;
    // λ ‖v − v₀‖², Gal et al. 2022, section 5.3, "regularized".
    for (let i = 0; classWeight > 0 && i < rows.length; i++) {
      const away = rows[i]! - start[i]!;
      total += classWeight * away * away;
      gradient[i]! += 2 * classWeight * away;
    }
    return total + (this.#density.get(name)?.penalize(rows, gradient, kdeWeight) ?? 0);
  }

  async #stopDiverged(loss: number, norm: number): Promise<never> {
    const { step } = this.#state;
    const kept = await this.#save();
    throw new NumericalError(
      `step ${step + 1}: expected a finite loss and gradient, got ${loss} and norm ${norm}; ` +
        `${kept ? `the state after step ${step} is kept; ` : ''}lower the learning rates`,
      { value: loss },
    );
  }

  async #interrupted(cause: unknown): Promise<InterruptedError> {
    const { step } = this.#state;
    const { stateFile } = this.#request;
    if (step === 0) return new InterruptedError('no step was made yet', { cause });
    if (stateFile === undefined)
      return new InterruptedError(`nothing is kept of ${step} steps: no file for the state was named`, {
        cause,
      });
    await this.#save();
    return new InterruptedError(
      `the state after step ${step} is kept in ${stateFile}: \`resume\` goes on from it`,
      { cause },
    );
  }

  async #save(): Promise<boolean> {
    const { stateFile } = this.#request;
    if (stateFile === undefined) return false;
    await saveState(stateFile, this.#settings, this.#trainables.parameters(), this.#state, this.#savedNone);
    this.#savedNone = false;
    return true;
  }

  async #sample(step: number): Promise<void> {
    const { base, onSample, signal } = this.#request;
    if (onSample === undefined || signal?.aborted) return;
    const tokens = this.#trainables.tokens();
    const concept = {
      path: 'training',
      format: 'ed-lora',
      tokens,
      layers: new Map(),
      metadata: new Map(),
    } as const;
    const pipeline = await Pipeline.create(base, {
      vocabulary: bindConcepts(
        base.parts.tokenizers,
        tokens.length === 0 ? [] : [concept],
        base.parts.layers.contextCount,
      ),
      deltas: await this.#trainables.deltas(),
      ...this.#execution,
    });
    try {
      const prompt = withWords(this.#settings.samplePrompt, this.#trainables.plan.words);
      const [picture] = await pipeline.sample({ prompt, seed: this.#settings.seed });
      await onSample(picture!, step);
    } catch (error) {
      // A picture that was given up; what was trained is saved where the next step would begin.
      if (signal?.aborted && error === signal.reason) return;
      await this.#save();
      throw error;
    } finally {
      await pipeline.dispose();
    }
  }
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

function vocabularyPenalties(
  { parts }: Checkpoint,
  { words }: Trainables,
  bandwidth: number,
): ReadonlyMap<string, DensityPenalty> {
  return new Map(
    [...parts.textEncoders].map(([id, { weights, config }]) => {
      const table = readFloat32(weights.get(TOKEN_TABLE)!);
      return [words.get(id)!.name, densityPenalty(table, config.hiddenSize, bandwidth)];
    }),
  );
}

function totalNorm(gradients: Iterable<Float32Array>): number {
  let squares = 0;
  for (const gradient of gradients) for (const value of gradient) squares += value * value;
  return Math.sqrt(squares);
}
