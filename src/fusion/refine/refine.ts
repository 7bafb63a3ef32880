/**
 * Refinement of a fusion by distillation: gradient steps on what pictures are made of, after the closed form.
 *
 * The closed form asks of every layer on its own to act as each concept's layer does. Here the whole fused UNet is asked
 * for the concept's guided noise prediction, z = e_u + g (e_c − e_u):
 *
 *   min over the factors  Σ_i E_{x, t} w(t) ‖z_fused(x, t, prompt_i) − z_i(x, t, prompt_i)‖²
 *
 * over concepts i with their own models as teachers, and generic captions with the base as theirs. Latents x are those
 * that the teacher visits when it draws, and from the second round on, for half of the rows, those that the fused model
 * visits: errors that feed on each other are only seen there (dataset aggregation, Ross et al. 2011, 1011.0686).
 * w(t) = min(σ/α, 8): an error of the noise prediction moves the picture by σ/α times as much, so that what a picture
 * becomes is decided at the noisy steps, whose errors are the smallest.
 *
 * The factors keep their ranks: the result is a LoRA as before.
 */
import { NumericalError, ShapeError, UsageError } from '../../errors.ts';
import { gradientOutput } from '../../graph/gradient-outputs.ts';
import { type LowRank, lowRank, rankOf, truncateSteps } from '../../linalg/low-rank.ts';
import { matrix } from '../../linalg/matrix.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { type Conditioning, conditioningFeeds } from '../../models/families/conditioning.ts';
import { commonRanks, deltaFeeds, deltaRanks, type LayerDeltas } from '../../models/lora.ts';
import { loraDownInput, loraUpInput } from '../../models/network.ts';
import { adamwState, adamwStep } from '../../optim/adamw.ts';
import { Pace } from '../../pace.ts';
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import type { LoadedGraph } from '../../runtime/runtime.ts';
import { GuidedRows } from '../../sampling/guided-rows.ts';
import { noiseSchedule } from '../../sampling/noise-schedule.ts';
import { dpmSolver } from '../../sampling/samplers/dpm-solver.ts';
import type { SchedulerConfig } from '../../sampling/scheduler-config.ts';
import { withDefaults } from '../../settings.ts';
import { TorchGenerator } from '../../tensor/random.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { buildRefineStep } from './refine-graph.ts';
import { checkRefineOptions, REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';
import { type GuidedModel, type RefinePrompt, type RefineState, Rollouts } from './refine-states.ts';

/** A model to be imitated: a concept's own, or the base (no deltas) for generic captions. */
export interface Teacher extends GuidedModel {
  /** For messages and progress. */
  readonly name: string;
  /** At least one; drawn in turn. */
  readonly prompts: readonly RefinePrompt[];
}

export interface RefineRequest {
  readonly base: Checkpoint;
  /** Noise schedule of the base, for DPM-Solver. */
  readonly schedule: SchedulerConfig;
  /** Layers of the UNet to refine, with the factors to begin with. Ranks stay. */
  readonly start: LayerDeltas;
  /** Changes of other layers of the UNet, which stay as they are. Default none. */
  readonly fixed?: LayerDeltas;
  /** The empty prompt as the fused model reads it, one row. */
  readonly empty: Conditioning;
  readonly concepts: readonly Teacher[];
  /** The base with generic captions; null preserves nothing. */
  readonly preserved: Teacher | null;
  /** What is left out takes its value from `REFINE_DEFAULTS`. */
  readonly options?: Partial<RefineOptions>;
  readonly execution?: ExecutionContext<RefineProgress>;
}

export interface RefineProgress {
  readonly action: 'draw' | 'step';
  /** Whose picture is drawn, or the step's number. */
  readonly subject: string;
  readonly done: number;
  readonly total: number;
}

export interface Refinement {
  /** The refined layers, in the order of `start`. */
  readonly layers: ReadonlyMap<string, LowRank>;
  /** Loss of every step before its update: mean weighted square over the batch's latent cells. */
  readonly losses: readonly number[];
}

const MAX_NOISE_RATIO = 8;
const WARM_UP_STEPS = 10;
/** Of the rows of a teacher from the second round on. */
const OWN_POLICY_SHARE = 0.5;

/**
 * Refine factors. Deterministic by seed. Keeps all states in memory: 8 · C · h · w bytes each, `denoisingSteps` per
 * drawing, `runs` drawings and one batch more per round for each teacher.
 * @throws {UsageError} for impossible options, no concepts, or no prompts
 * @throws {ShapeError} if deltas or text features do not fit the base
 * @throws {NumericalError} naming the step, if the loss or a factor stops being finite
 */
export async function refine(request: RefineRequest): Promise<Refinement> {
  const options = withDefaults(REFINE_DEFAULTS, request.options);
  checkRefineOptions(options);
  checkRequest(request);
  if (options.steps === 0) return { layers: request.start, losses: [] };
  const { execution = executionContext() } = request;
  const pace = new Pace(execution.signal);
  // Adam moves every number by about as much: both factors of a layer have to be of one size.
  const balanced = new Map<string, LowRank>();
  for (const [name, delta] of request.start) {
    balanced.set(name, (await pace.run(truncateSteps(delta, rankOf(delta)))).delta);
  }
  const run = new RefineRun(request, balanced, options, execution);
  try {
    return await run.finish();
  } finally {
    await run.dispose();
  }
}

/** Units of work that progress counts. @param teachers concepts, and one more if captions are preserved */
export function refineUnits(
  { steps, runs, batch, denoisingSteps, roundSteps }: RefineOptions,
  teachers: number,
): number {
  const drawings = Math.ceil(runs / batch) + Math.ceil(steps / roundSteps) - 1;
  return steps + drawings * teachers * denoisingSteps;
}

function checkRequest({ base, start, fixed, empty, concepts, preserved }: RefineRequest): void {
  if (start.size === 0) throw new UsageError('refine: expected at least one layer');
  if (concepts.length === 0) throw new UsageError('refine: expected at least one concept');
  for (const [layerName, { up, down }] of start) {
    const { m, n } = base.parts.unet.layers.get(layerName) ?? { m: 0, n: 0 };
    if (up.rows !== m || down.cols !== n) {
      throw new ShapeError(`refine: ${layerName}: expected [${m}, ${n}], got [${up.rows}, ${down.cols}]`);
    }
    if (fixed?.has(layerName))
      throw new UsageError(`refine: ${layerName}: expected either to refine it or to keep it, got both`);
  }
  const { maxPositions } = base.parts;
  const expected = [
    1,
    base.parts.layers.contextCount,
    maxPositions,
    base.parts.unet.config.crossAttentionDim,
  ];
  const check = (where: string, { context: { shape } }: Conditioning): void => {
    if (shape.join() !== expected.join()) {
      throw new ShapeError(
        `refine: ${where}: expected text features [${expected.join(', ')}], got [${shape.join(', ')}]`,
      );
    }
  };
  check('empty prompt', empty);
  for (const { name, prompts, empty: own } of [...concepts, ...(preserved ? [preserved] : [])]) {
    if (prompts.length === 0) throw new UsageError(`refine: ${name}: expected at least one prompt`);
    check(`${name}, empty prompt`, own);
    for (const prompt of prompts) {
      check(name, prompt.own);
      check(name, prompt.fused);
    }
  }
}

/** A teacher's states: where it goes itself, and where the fused model went. */
interface Pool {
  readonly teacher: Teacher;
  readonly visited: RefineState[];
  readonly ownPolicy: RefineState[];
  /** Drawings so far: prompts take turns. */
  drawn: number;
}

class RefineRun {
  readonly #request: RefineRequest;
  readonly #options: RefineOptions;
  readonly #execution: ExecutionContext<RefineProgress>;
  readonly #pools: readonly Pool[];
  readonly #random: TorchGenerator;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #feeds: Record<string, Tensor>;
  readonly #alphasCumprod: Float32Array;
  readonly #rows: GuidedRows;
  readonly #latentSize: { readonly latentHeight: number; readonly latentWidth: number };
  #rollouts: Rollouts | null = null;
  #training: LoadedGraph | null = null;
  #done = 0;
  #turn = 0;
  #preservedRows = 0;

  constructor(
    request: RefineRequest,
    balanced: LayerDeltas,
    options: RefineOptions,
    execution: ExecutionContext<RefineProgress>,
  ) {
    const { base, fixed = new Map(), concepts, preserved, schedule } = request;
    this.#request = request;
    this.#options = options;
    this.#execution = execution;
    const teachers = preserved === null || options.preserve === 0 ? concepts : [...concepts, preserved];
    this.#pools = teachers.map((teacher) => ({ teacher, visited: [], ownPolicy: [], drawn: 0 }));
    this.#random = new TorchGenerator(options.seed);
    const deltas: LayerDeltas = new Map([...fixed, ...balanced]);
    this.#ranks = deltaRanks(deltas);
    this.#feeds = deltaFeeds(deltas, this.#ranks, base.parts.unet.layers);
    this.#alphasCumprod = noiseSchedule(schedule).alphasCumprod;
    const { sampleSize } = base.parts.unet.config;
    this.#rows = new GuidedRows(options.batch, { scale: options.guidanceScale });
    this.#latentSize = { latentHeight: sampleSize, latentWidth: sampleSize };
  }

  async finish(): Promise<Refinement> {
    const { steps, roundSteps, runs, batch } = this.#options;
    await this.#load();
    for (let drawn = 0; drawn < runs; drawn += batch) await this.#draw('visited');
    const states = new Map(
      [...this.#request.start.keys()]
        .flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)])
        .map((name) => [name, adamwState(this.#feeds[name]!.data.length)]),
    );
    const losses: number[] = [];
    for (let step = 1; step <= steps; step++) {
      if (step > 1 && (step - 1) % roundSteps === 0) await this.#draw('ownPolicy');
      const out = await this.#step(this.#batch());
      const [loss] = out.loss!.data as Float32Array;
      if (!Number.isFinite(loss)) {
        throw new NumericalError(
          `refine step ${step} of ${steps}: loss is not finite; lower the learning rate`,
          { value: loss! },
        );
      }
      losses.push(loss!);
      const rate = this.#learningRate(step);
      for (const [name, state] of states) {
        const gradient = out[gradientOutput(name)]!.data as Float32Array;
        adamwStep(this.#feeds[name]!.data as Float32Array, gradient, state, rate, {
          betas: [0.9, 0.99],
          weightDecay: 0,
        });
      }
      this.#advance('step', `${step}`);
    }
    const layers = this.#deltas(this.#request.start.keys());
    for (const [layer, { up, down }] of layers) {
      const bad = [...up.data, ...down.data].find((value) => !Number.isFinite(value));
      if (bad !== undefined) {
        throw new NumericalError('refined factors are not finite; lower the learning rate', {
          layer,
          value: bad,
        });
      }
    }
    return { layers, losses };
  }

  async dispose(): Promise<void> {
    await this.#rollouts?.dispose();
    await this.#training?.dispose();
  }

  async #load(): Promise<void> {
    const execution = this.#execution;
    const { base, schedule, start } = this.#request;
    const { denoisingSteps, recomputeBlocks } = this.#options;
    const size = { ...this.#latentSize, tokens: base.parts.maxPositions };
    const drawn = commonRanks([
      this.#deltas(this.#ranks.keys()),
      ...this.#pools.map(({ teacher }) => teacher.deltas),
    ]);
    this.#rollouts = await Rollouts.create(base.parts.unet, this.#rows, size, drawn, {
      sampler: dpmSolver(schedule, denoisingSteps),
      execution,
    });
    const graph = buildRefineStep(base.parts.unet, this.#rows, size, {
      ranks: this.#ranks,
      trained: start.keys(),
      recomputeBlocks,
    });
    this.#training = await execution.runtime.load(graph, 'training', execution);
  }

  /** One batch of drawings for every teacher: by itself, or by the fused model as it is now. */
  async #draw(into: 'visited' | 'ownPolicy'): Promise<void> {
    const { empty } = this.#request;
    const { batch } = this.#options;
    const fused = into === 'visited' ? null : { deltas: this.#deltas(this.#ranks.keys()), empty };
    for (const pool of this.#pools) {
      const { teacher } = pool;
      const { prompts } = teacher;
      const chosen = Array.from({ length: batch }, (_, i) => prompts[(pool.drawn + i) % prompts.length]!);
      pool.drawn += batch;
      const noise = this.#random.randn(batch * this.#cells);
      const states = await this.#rollouts!.draw(chosen, noise, teacher, fused, () =>
        this.#advance('draw', teacher.name),
      );
      pool[into].push(...states);
    }
  }

  /** Rows of the next step: the preserved share first, then concepts in turn. */
  #batch(): RefineState[] {
    const { batch, preserve } = this.#options;
    const conceptCount = this.#request.concepts.length;
    const generic = this.#pools[conceptCount];
    return Array.from({ length: batch }, () => {
      this.#preservedRows += generic === undefined ? 0 : preserve;
      const own = this.#preservedRows < 1;
      if (!own) this.#preservedRows--;
      const { visited, ownPolicy } = own ? this.#pools[this.#turn++ % conceptCount]! : generic!;
      const [which] = this.#random.rand(1);
      const states = ownPolicy.length > 0 && which! < OWN_POLICY_SHARE ? ownPolicy : visited;
      return states[this.#random.randint(0, states.length, 1)[0]!]!;
    });
  }

  #step(states: readonly RefineState[]): Promise<Record<string, Tensor>> {
    const { batch } = this.#options;
    const { latentHeight, latentWidth } = this.#latentSize;
    const { empty, base } = this.#request;
    const cells = this.#cells;
    const shape = [batch, base.parts.unet.config.inChannels, latentHeight, latentWidth];
    const latents = float32(shape);
    const target = float32(shape);
    const timestep = float32([batch]);
    const weight = float32([batch, 1, 1, 1]);
    states.forEach((state, i) => {
      latents.data.set(state.latents, i * cells);
      timestep.data[i] = state.timestep;
      target.data.set(state.target, i * cells);
      weight.data[i] = this.#weight(state.timestep) / (batch * cells);
    });
    return this.#training!.run({
      sample: this.#rows.both(latents),
      timestep: this.#rows.both(timestep),
      target,
      row_weight: weight,
      ...conditioningFeeds(
        this.#rows.conditioning(
          empty,
          states.map(({ prompt }) => prompt.fused),
        ),
      ),
      ...this.#feeds,
    });
  }

  /** w(t) = min(σ/α, 8). */
  #weight(timestep: number): number {
    const last = this.#alphasCumprod.length - 1;
    const alpha = this.#alphasCumprod[Math.min(last, Math.max(0, Math.round(timestep)))]!;
    return Math.min(MAX_NOISE_RATIO, Math.sqrt((1 - alpha) / alpha));
  }

  #learningRate(step: number): number {
    const { learningRate, steps } = this.#options;
    const warm = Math.min(1, step / WARM_UP_STEPS);
    return learningRate * warm * 0.5 * (1 + Math.cos((Math.PI * (step - 1)) / steps));
  }

  /** The factors as they are now. */
  #deltas(layers: Iterable<string>): Map<string, LowRank> {
    const of = (name: string) => {
      const { shape, data } = this.#feeds[name]!;
      return matrix(shape[0]!, shape[1]!, Float64Array.from(data as Float32Array));
    };
    return new Map(
      [...layers].map((name) => [name, lowRank(of(loraUpInput(name)), of(loraDownInput(name)))]),
    );
  }

  /** Numbers of one picture's latents. */
  get #cells(): number {
    return (
      this.#request.base.parts.unet.config.inChannels *
      this.#latentSize.latentHeight *
      this.#latentSize.latentWidth
    );
  }

  #advance(action: RefineProgress['action'], subject: string): void {
    this.#execution.signal?.throwIfAborted();
    const total = refineUnits(this.#options, this.#pools.length);
    this.#done++;
    this.#execution.progress?.({ action, subject, done: this.#done, total });
  }
}
