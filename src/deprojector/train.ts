/**
 * Training of a deprojector: prompts to hidden states once, then steps of teacher forcing, resumable at any saved step to the same
 * numbers.
 */
import { InterruptedError, NumericalError } from '../errors.ts';
import { float32Tensor } from '../formats/raw-tensor.ts';
import { gradientOutput } from '../graph/gradient-outputs.ts';
import { sha256 } from '../io/platform/sha256.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ClipModel } from '../models/clip/clip-model.ts';
import { adamwState, adamwStep } from '../optim/adamw.ts';
import { learningRate } from '../optim/learning-rate.ts';
import type { Progress } from '../progress.ts';
import {
  type ExecutionContext,
  type ExecutionRequest,
  executionContext,
  withProgress,
} from '../runtime/execution-context.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { numberedGenerator } from '../tensor/numbered-generator.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { type Deprojector, planOf } from './deprojector.ts';
import { type EmbeddingSpace, lengthOf, projected, projectionOf, takenBack, unit } from './embedding.ts';
import { textEncoderHash } from './encoder-hash.ts';
import { type HeldOutErrors, heldOutErrors } from './held-out.ts';
import { initialParameter } from './initial.ts';
import { buildOwnStates, buildStep, type DeprojectorStep } from './network.ts';
import { cutPrompts, type PromptStates, promptStates } from './prompt-states.ts';
import { distinctPrompts } from './prompts.ts';
import { type DeprojectorInput, type DeprojectorSettings, deprojectorSettings } from './settings.ts';
import {
  type DeprojectorState,
  type RunIdentity,
  restoreDeprojectorState,
  saveDeprojectorState,
  type TrainedParameter,
} from './train-state.ts';

export interface DeprojectorProgress extends Progress {
  readonly phase: 'encoding prompts' | 'training' | 'measuring';
  /** While training: the step just done. */
  readonly step?: { readonly step: number; readonly loss: number; readonly rate: number };
}

export interface DeprojectorRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  /** The CLIP model whose text tower the base has: its projection makes embeddings. */
  readonly clip: ClipModel;
  /** Equal ones count once. */
  readonly prompts: readonly string[];
  readonly settings: DeprojectorInput;
  /** Where states of the prompts are kept; those of the same prompts and encoder are not made again. */
  readonly statesFile: string;
  /** Where the run's state is saved. Default: it is not. */
  readonly stateFile?: string;
  /** Go on from the state file, if there is one. Default false. */
  readonly resume?: boolean;
  readonly onProgress?: (progress: DeprojectorProgress) => void;
}

export interface TrainedDeprojector {
  readonly deprojector: Deprojector;
  readonly settings: DeprojectorSettings;
  /** Of every step, from the first. */
  readonly losses: readonly number[];
  readonly heldOut: HeldOutErrors;
  /** Prompts that were trained on, that were held out, and that were longer than the encoder reads. */
  readonly counts: { readonly trained: number; readonly heldOut: number; readonly cut: number };
  /** Numbers that were trained. */
  readonly parameterCount: number;
}

/** Purposes of a run's random numbers. */
const RANDOM = { split: 0, start: 1, order: 2, noise: 3, own: 4, blur: 5 } as const;

/** Prompts that are learned from and those that are held out, by index, as the seed has it. */
export function splitPrompts(
  count: number,
  { heldOut, seed }: Pick<DeprojectorSettings, 'heldOut' | 'seed'>,
): { readonly trained: number[]; readonly heldOut: number[] } {
  const order = [...numberedGenerator(seed, RANDOM.split, 0).randperm(count)];
  const kept = Math.min(count - 1, Math.max(1, Math.round(heldOut * count)));
  return { trained: order.slice(kept), heldOut: order.slice(0, kept) };
}

/**
 * Train.
 * @throws {UsageError} for settings and prompts that cannot be; {MismatchError} if the CLIP model is not the base's
 * @throws {NumericalError} if losses stop being finite: the state before that step is saved
 * @throws {InterruptedError} saying what is kept
 */
export async function trainDeprojector(request: DeprojectorRequest): Promise<TrainedDeprojector> {
  const run = await TrainingRun.prepare(request);
  return run.finish();
}

class TrainingRun {
  readonly #request: DeprojectorRequest;
  readonly #settings: DeprojectorSettings;
  readonly #execution: ExecutionContext;
  readonly #data: PromptStates;
  readonly #split: ReturnType<typeof splitPrompts>;
  readonly #cut: number;
  /** Everything but the parameters. */
  readonly #frame: Omit<Deprojector, 'weights'>;
  /** Embeddings of the prompts, of length 1, [N, P]. */
  readonly #embeddings: Float32Array;
  readonly #step: DeprojectorStep;
  readonly #state: DeprojectorState;
  readonly #identity: RunIdentity;
  readonly #batch: number;

  private constructor(
    request: DeprojectorRequest,
    settings: DeprojectorSettings,
    data: PromptStates,
    frame: Omit<Deprojector, 'weights'>,
    split: ReturnType<typeof splitPrompts>,
    cut: number,
    identity: RunIdentity,
  ) {
    this.#request = request;
    this.#settings = settings;
    this.#execution = executionContext(request);
    this.#data = data;
    this.#frame = frame;
    this.#split = split;
    this.#cut = cut;
    this.#identity = identity;
    this.#embeddings = embeddingsOf(data, frame.space);
    this.#batch = Math.min(settings.batch, split.trained.length);
    this.#step = buildStep(planOf(frame), this.#batch, true);
    const random = numberedGenerator(settings.seed, RANDOM.start, 0);
    const { textEncoder } = request.base.parts;
    const parameters = new Map<string, TrainedParameter>();
    for (const [name, shape] of this.#step.parameters) {
      const start = initialParameter(name, shape, textEncoder, random);
      parameters.set(name, { shape, data: start, optimizer: adamwState(start.length) });
    }
    this.#state = { parameters, losses: [] };
  }

  /** Everything that can go wrong before the first step. */
  static async prepare(request: DeprojectorRequest): Promise<TrainingRun> {
    const { base, clip, signal, onProgress } = request;
    const settings = deprojectorSettings(request.settings);
    const prompts = distinctPrompts(request.prompts);
    const { textEncoder: encoder } = base.parts;
    const { config } = encoder;
    const projection = await projectionOf(clip, config, signal);
    const reader = { encoder, tokenizer: base.tokenizer, hash: await textEncoderHash(encoder, signal) };
    const data = await promptStates(
      reader,
      prompts,
      request.statesFile,
      withProgress(executionContext(request), ({ done, total }: Progress) =>
        onProgress?.({ phase: 'encoding prompts', done, total }),
      ),
    );
    const split = splitPrompts(data.count, settings);
    const pooled = split.trained.map((i) => pooledOf(data, i));
    const unscaled = { ...projection, length: 1, origin: data.origin };
    const lengths = pooled.map((own) => lengthOf(projected(unscaled, own)));
    const length = Math.fround(lengths.reduce((a, b) => a + b, 0) / lengths.length);
    const frame = {
      label: 'the trained deprojector',
      model: settings.model,
      shape: {
        hiddenSize: config.hiddenSize,
        intermediateSize: config.intermediateSize,
        numHeads: config.numHeads,
        hiddenAct: config.hiddenAct,
        layerNormEpsilon: config.layerNormEpsilon,
        vicinity: settings.vicinity,
      },
      positions: data.positions,
      space: { ...unscaled, length },
      start: data.start,
      textEncoder: reader.hash,
    };
    const hash = sha256().update(reader.hash).update(JSON.stringify(prompts));
    const identity = {
      settings,
      data: hash.update(new Uint8Array(projection.projection.slice().buffer)).digest('hex'),
    };
    const cut = cutPrompts(reader, prompts);
    const run = new TrainingRun(request, settings, data, frame, split, cut, identity);
    if (request.resume && request.stateFile !== undefined) {
      await restoreDeprojectorState(request.stateFile, identity, run.#state);
    }
    return run;
  }

  async finish(): Promise<TrainedDeprojector> {
    const { signal, onProgress } = this.#request;
    const { epochs, saveEvery, rollout } = this.#settings;
    const { losses, parameters } = this.#state;
    const steps = epochs * this.#batches;
    const { runtime } = this.#execution;
    const session = await runtime.load(this.#step.graph, 'training', this.#execution);
    const ahead =
      rollout === 0
        ? null
        : await runtime.load(buildOwnStates(planOf(this.#frame), this.#batch), 'training', this.#execution);
    try {
      while (losses.length < steps) {
        if (signal?.aborted) throw await this.#interrupted(signal.reason);
        const step = await this.#advance(session, ahead, steps).catch(async (error: unknown) => {
          // A step that nobody waited for has changed nothing.
          if (!signal?.aborted || error !== signal.reason) throw error;
          throw await this.#interrupted(error);
        });
        onProgress?.({ phase: 'training', done: step.step, total: steps, step });
        if ((saveEvery > 0 && step.step % saveEvery === 0) || step.step === steps) await this.#save();
      }
    } finally {
      await session.dispose();
      await ahead?.dispose();
    }
    const tensors = new Map(
      [...parameters].map(([name, { shape, data }]) => [name, float32Tensor(name, shape, data)]),
    );
    const { label } = this.#frame;
    const deprojector = { ...this.#frame, weights: { label, get: (name: string) => tensors.get(name) } };
    const held = this.#split.heldOut;
    const heldOut = await heldOutErrors(
      deprojector,
      held.map((i) => ({ pooled: pooledOf(this.#data, i), states: this.#data.of(i) })),
      withProgress(this.#execution, ({ done, total }: Progress) =>
        onProgress?.({ phase: 'measuring', done, total }),
      ),
    );
    return {
      deprojector,
      settings: this.#settings,
      losses,
      heldOut,
      counts: { trained: this.#split.trained.length, heldOut: held.length, cut: this.#cut },
      parameterCount: [...parameters.values()].reduce((sum, { data }) => sum + data.length, 0),
    };
  }

  /** Batches of an epoch; the last one is filled up from its beginning. */
  get #batches(): number {
    return Math.ceil(this.#split.trained.length / this.#batch);
  }

  /** One optimiser step. @param ahead makes states without gradients */
  async #advance(session: LoadedGraph, ahead: LoadedGraph | null, steps: number) {
    const { parameters, losses } = this.#state;
    const { lr, schedule, warmup, weightDecay } = this.#settings;
    const done = losses.length;
    const feeds: Record<string, Tensor> = this.#feeds(done);
    for (const [name, { shape, data }] of parameters) feeds[name] = float32(shape, data);
    if (ahead !== null) await this.#readOwn(ahead, feeds, done);
    const outputs = await session.run(feeds, ['loss', ...[...parameters.keys()].map(gradientOutput)]);
    const loss = (outputs.loss!.data as Float32Array)[0]!;
    if (!Number.isFinite(loss)) await this.#stopDiverged(loss);
    // The first step of a warm-up is not lost.
    const rate = learningRate(
      schedule,
      lr,
      done + (done < warmup ? 1 : 0),
      steps,
      Math.min(warmup, steps - 1),
    );
    for (const [name, { data, optimizer }] of parameters) {
      adamwStep(data, outputs[gradientOutput(name)]!.data as Float32Array, optimizer, rate, { weightDecay });
    }
    losses.push(loss);
    return { step: done + 1, loss, rate };
  }

  /** A step's prompts: what the model reads, the states before each position, and the true ones. */
  #feeds(step: number): Record<string, Tensor<Float32Array>> {
    const { seed, noise, blur } = this.#settings;
    const { space } = this.#frame;
    const { trained } = this.#split;
    const { positions, width } = this.#data;
    const epoch = Math.floor(step / this.#batches);
    const order = numberedGenerator(seed, RANDOM.order, epoch).randperm(trained.length);
    const first = (step % this.#batches) * this.#batch;
    const embedding = float32([this.#batch, width]);
    const states = float32([this.#batch, positions, width]);
    const before = float32([this.#batch, positions - 1, width]);
    const { projectionDim } = space;
    const blurred =
      blur > 0 ? numberedGenerator(seed, RANDOM.blur, step).randn(this.#batch * projectionDim) : null;
    const spread = blur / Math.sqrt(projectionDim);
    for (let b = 0; b < this.#batch; b++) {
      const index = trained[order[(first + b) % trained.length]!]!;
      const own = this.#data.of(index);
      const exact = this.#embeddings.subarray(index * projectionDim, (index + 1) * projectionDim);
      const read =
        blurred === null
          ? exact
          : unit(exact.map((value, i) => value + spread * blurred[b * projectionDim + i]!));
      embedding.data.set(takenBack(space, read), b * width);
      states.data.set(own, b * positions * width);
      before.data.set(own.subarray(0, -width), b * (positions - 1) * width);
    }
    if (noise > 0) {
      const random = numberedGenerator(seed, RANDOM.noise, step).randn(before.data.length);
      for (let i = 0; i < random.length; i++) before.data[i]! += noise * random[i]!;
    }
    return { embedding, states, before, origin: float32([width], this.#data.origin) };
  }

  /** Puts what the model itself makes in place of the true states from some position on. */
  async #readOwn(ahead: LoadedGraph, feeds: Record<string, Tensor>, step: number): Promise<void> {
    const { seed, rollout } = this.#settings;
    const { positions, width } = this.#data;
    const random = numberedGenerator(seed, RANDOM.own, step);
    const rows = positions - 1;
    const [whole, starts] = [random.rand(this.#batch), random.rand(this.#batch)];
    const own = float32([this.#batch, rows, 1]);
    const given = float32([this.#batch, rows, width], (feeds.before!.data as Float32Array).slice());
    for (let b = 0; b < this.#batch; b++) {
      const first = whole[b]! < rollout ? 0 : Math.floor(starts[b]! * positions);
      own.data.fill(1, b * rows + first, (b + 1) * rows);
      given.data.fill(0, (b * rows + first) * width, (b + 1) * rows * width);
    }
    const { before, states, ...shared } = feeds;
    const read = await ahead.run({ ...shared, own, given }, ['before']);
    feeds.before = read.before!;
  }

  async #stopDiverged(loss: number): Promise<never> {
    const done = this.#state.losses.length;
    const kept = await this.#save();
    throw new NumericalError(
      `step ${done + 1}: expected a finite loss, got ${loss}; ` +
        `${kept ? `the state after step ${done} is kept; ` : ''}lower the learning rate`,
      { value: loss },
    );
  }

  async #interrupted(cause: unknown): Promise<InterruptedError> {
    const done = this.#state.losses.length;
    if (done === 0) return new InterruptedError('no step was made yet', { cause });
    if (!(await this.#save())) {
      return new InterruptedError(`nothing is kept of ${done} steps: no file for the state was named`, {
        cause,
      });
    }
    return new InterruptedError(
      `the state after step ${done} is kept in ${this.#request.stateFile}: \`resume\` goes on from it`,
      { cause },
    );
  }

  async #save(): Promise<boolean> {
    const { stateFile } = this.#request;
    if (stateFile === undefined) return false;
    await saveDeprojectorState(stateFile, this.#identity, this.#state);
    return true;
  }
}

const pooledOf = ({ pooled, width }: PromptStates, index: number): Float32Array =>
  pooled.subarray(index * width, (index + 1) * width);

/** Embeddings of the prompts, of length 1, [N, P]. */
function embeddingsOf(data: PromptStates, space: EmbeddingSpace): Float32Array {
  const embeddings = new Float32Array(data.count * space.projectionDim);
  for (let i = 0; i < data.count; i++) {
    embeddings.set(unit(projected(space, pooledOf(data, i))), i * space.projectionDim);
  }
  return embeddings;
}
