/**
 * A training run: steps of loss, gradients and AdamW on what prepared-run.ts made ready, resumable at any saved step. The same
 * settings and seed give the same numbers, whether the run was interrupted or not.
 */
import type { ConceptToken } from '../concepts/concept.ts';
import type { MergedLayer } from '../concepts/lora-file.ts';
import { bindConcepts } from '../concepts/prompt.ts';
import { InterruptedError, NumericalError } from '../errors.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { TOKEN_TABLE } from '../models/clip/text-encoder.ts';
import type { Family } from '../models/families/family.ts';
import { type AdamWState, adamwState, adamwStep } from '../optim/adamw.ts';
import { learningRate } from '../optim/learning-rate.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import { Pipeline } from '../sampling/sample.ts';
import { numberedGenerator } from '../tensor/numbered-generator.ts';
import type { BatchMaker } from './batch.ts';
import { meanRowNorm } from './concept-embeddings.ts';
import { withWords } from './data/captions.ts';
import { type DensityPenalty, densityPenalty } from './kernel-density.ts';
import type { ResolvedSettings, TrainingMethod } from './methods/method.ts';
import { type PreparedRun, prepareRun, RANDOM, type TrainingRequest } from './prepared-run.ts';
import { drawMasks } from './rank-masks.ts';
import { type RunState, restoreState, type StepLog, saveState } from './run-state.ts';
import { TrainingStep } from './step.ts';
import type { ParameterGroup, Trainables, TrainedWords } from './trainables.ts';

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

/**
 * Train.
 * @throws {UsageError} for settings, words or starts that cannot be; {FormatError} naming all unusable pictures
 * @throws {NumericalError} if loss or gradients stop being finite: the step is named, the state before it is saved
 */
export async function train(request: TrainingRequest): Promise<TrainedConcept> {
  const prepared = await prepareRun(request);
  const run = new TrainingRun(request, prepared);
  try {
    await run.resume();
    return await run.finish();
  } finally {
    await run.dispose();
  }
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

  constructor(request: TrainingRequest, prepared: PreparedRun) {
    const { method, settings, trainables, batches, counts, execution } = prepared;
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

  /** From the state file, if that is asked for and there is one. */
  async resume(): Promise<void> {
    const { resume = false, stateFile } = this.#request;
    if (!resume || stateFile === undefined) return;
    const parameters = this.#trainables.parameters();
    this.#savedNone = !(await restoreState(stateFile, this.#settings, parameters, this.#state));
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
