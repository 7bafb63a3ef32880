/**
 * Refinement of a fusion by distillation: gradient steps on what pictures are made of, after the closed form.
 *
 * The closed form asks of every layer on its own to act as each concept's layer does. Here the whole fused UNet is asked
 * for guided noise predictions:
 *
 *   min over the factors  Σ_i E_{x, t} λ(t) ‖e_fused(x, t, p_i) − w e_fused(x, t, ∅) − (e_i(x, t, p_i) − w e_base(x, t, ∅))‖²
 *
 * over concepts i with their own models as teachers of their prompts, and generic captions with the base as theirs; every
 * step is one teacher's. With w = 1 − 1/g that is the guided prediction, divided by its guidance g. Latents x are those that
 * the teacher visits when it draws, and from the second round on, for half of the rows, those that the fused model visits:
 * errors that feed on each other are only seen there (dataset aggregation, Ross et al. 2011, 1011.0686). λ(t) = min(σ/α, 1): the last steps hardly move a picture.
 *
 * Without a prompt the teacher is the base, for all: a concept's own model draws some of its concept for the empty prompt
 * too, so that its own guided prediction tells less of the concept than what e_i and the base's e_∅ make; and all concepts
 * share e_∅, which is read at every step of every picture, at latents of all of them. The two errors, compared apart, do not
 * cancel where guidance lets them (docs/fusion.md).
 *
 * The factors keep their ranks: the result is a LoRA as before.
 */
import { NumericalError } from '../../errors.ts';
import { gradientOutput } from '../../graph/gradient-outputs.ts';
import { type LowRank, rankOf, truncateSteps } from '../../linalg/low-rank.ts';
import { conditioningFeeds } from '../../models/families/conditioning.ts';
import { commonRanks, type LayerDeltas } from '../../models/lora.ts';
import { Pace } from '../../pace.ts';
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import type { LoadedGraph } from '../../runtime/runtime.ts';
import { GuidedRows } from '../../sampling/guided-rows.ts';
import { noiseSchedule } from '../../sampling/noise-schedule.ts';
import { dpmSolver } from '../../sampling/samplers/dpm-solver.ts';
import { withDefaults } from '../../settings.ts';
import { TorchGenerator } from '../../tensor/random.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { latentSizeOf } from '../prompt-reader.ts';
import { HeldOut, type HeldOutStates, spreadOver } from './held-out.ts';
import { MovingFactors } from './moving-factors.ts';
import { buildRefineStep } from './refine-graph.ts';
import {
  checkRefineOptions,
  REFINE_DEFAULTS,
  type RefineOptions,
  unpromptedWeight,
} from './refine-options.ts';
import {
  checkRequest,
  type Refinement,
  type RefineProgress,
  type RefineRequest,
  type Teacher,
} from './refine-request.ts';
import { type RefineState, Rollouts, stateFeeds } from './refine-states.ts';
import { firstBatches, refineWork } from './refine-work.ts';

const MAX_NOISE_RATIO = 1;
const WARM_UP_STEPS = 10;
/** Of the rows of a teacher from the second round on. */
const OWN_POLICY_SHARE = 0.5;
/** Steps at which each held-out drawing is judged: one tells too little of four pictures. */
const JUDGED_AT = 2;

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
  if (options.steps === 0) return { layers: request.start, losses: [], checks: [] };
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
  readonly #factors: MovingFactors;
  readonly #alphasCumprod: Float32Array;
  readonly #latentSize: { readonly latentHeight: number; readonly latentWidth: number };
  #rollouts: Rollouts | null = null;
  #training: LoadedGraph | null = null;
  #done = 0;
  #turn = 0;
  #preservedSteps = 0;

  constructor(
    request: RefineRequest,
    balanced: LayerDeltas,
    options: RefineOptions,
    execution: ExecutionContext<RefineProgress>,
  ) {
    const { base, size = latentSizeOf(base), fixed = new Map(), concepts, preserved, schedule } = request;
    this.#request = request;
    this.#options = options;
    this.#execution = execution;
    const teachers = preserved === null || options.preserve === 0 ? concepts : [...concepts, preserved];
    this.#pools = teachers.map((teacher) => ({ teacher, visited: [], ownPolicy: [], drawn: 0 }));
    this.#random = new TorchGenerator(options.seed);
    this.#factors = new MovingFactors(balanced, fixed, base.parts.unet.layers);
    this.#alphasCumprod = noiseSchedule(schedule).alphasCumprod;
    this.#latentSize = { latentHeight: size.height, latentWidth: size.width };
  }

  async finish(): Promise<Refinement> {
    const { steps, checkSteps, roundSteps, reach } = this.#options;
    await this.#load();
    const batches = this.#pools.map(({ teacher }) => firstBatches(this.#options, teacher.prompts.length));
    for (let drawn = 0; drawn < Math.max(...batches); drawn++) {
      await this.#draw(
        'visited',
        this.#pools.filter((_, i) => drawn < batches[i]!),
      );
    }
    const losses: number[] = [];
    const held = await this.#heldOut();
    await held?.look(0, this.#factors.model());
    const start = this.#factors.layers();
    for (let step = 1; step <= steps; step++) {
      if (step > 1 && (step - 1) % roundSteps === 0) await this.#draw('ownPolicy');
      const { loss, gradients } = await this.#step(this.#batch());
      if (!Number.isFinite(loss)) {
        throw new NumericalError(
          `refine step ${step} of ${steps}: loss is not finite; lower the learning rate`,
          { value: loss },
        );
      }
      losses.push(loss);
      this.#factors.step(gradients, this.#learningRate(step));
      this.#advance('step', `${step}`);
      if (step === steps) this.#factors.withdraw(reach);
      if (step % checkSteps === 0 || step === steps) await held?.look(step, this.#factors.model());
    }
    const layers = held === null || held.hasImproved ? this.#factors.layers() : start;
    return { layers, losses, checks: held?.checks ?? [] };
  }

  async dispose(): Promise<void> {
    await this.#rollouts?.dispose();
    await this.#training?.dispose();
  }

  async #load(): Promise<void> {
    const execution = this.#execution;
    const { base, schedule, start, noPrompt } = this.#request;
    const { denoisingSteps, picturesPerPass, recomputeBlocks } = this.#options;
    const unprompted = unpromptedWeight(this.#options);
    const size = { ...this.#latentSize, tokens: base.parts.maxPositions };
    const drawn = commonRanks([this.#factors.model(), ...this.#pools.map(({ teacher }) => teacher.deltas)]);
    this.#rollouts = await Rollouts.create(base.parts.unet, picturesPerPass, size, drawn, {
      sampler: dpmSolver(schedule, denoisingSteps),
      noPrompt,
      unprompted,
      execution,
    });
    const graph = buildRefineStep(base.parts.unet, picturesPerPass, size, {
      ranks: this.#factors.ranks,
      trained: start.keys(),
      unprompted,
      recomputeBlocks,
    });
    this.#training = await execution.runtime.load(graph, 'training', execution);
  }

  /** One batch of drawings for each of these teachers: by itself, or by the fused model as it is now. */
  async #draw(into: 'visited' | 'ownPolicy', pools = this.#pools): Promise<void> {
    const { batch } = this.#options;
    const fused = into === 'visited' ? null : this.#factors.model();
    for (const pool of pools) {
      const { teacher } = pool;
      const { prompts } = teacher;
      const chosen = Array.from({ length: batch }, (_, i) => prompts[(pool.drawn + i) % prompts.length]!);
      pool.drawn += batch;
      const noise = this.#random.randn(batch * this.#cells);
      const states = await this.#rollouts!.draw(chosen, noise, teacher.deltas, fused, () =>
        this.#advance('draw', teacher.name),
      );
      pool[into].push(...states);
    }
  }

  /** One more batch of drawings of every teacher that has prompts to be judged by. */
  async #heldOut(): Promise<HeldOut | null> {
    const { batch, preserve } = this.#options;
    const conceptCount = this.#request.concepts.length;
    const ofConcepts = this.#pools.length > conceptCount ? 1 - preserve : 1;
    const teachers: HeldOutStates[] = [];
    for (const [i, { teacher }] of this.#pools.entries()) {
      const { heldOut = [] } = teacher;
      if (heldOut.length === 0) continue;
      const prompts = Array.from({ length: batch }, (_, k) => heldOut[k % heldOut.length]!);
      const noise = this.#random.randn(batch * this.#cells);
      const drawn = await this.#rollouts!.draw(prompts, noise, teacher.deltas, null, () =>
        this.#advance('draw', teacher.name),
      );
      const share = i < conceptCount ? ofConcepts / conceptCount : preserve;
      teachers.push({ states: spreadOver(drawn, batch, JUDGED_AT * batch), share });
    }
    const weight = (timestep: number): number => this.#weight(timestep);
    return teachers.length === 0 ? null : new HeldOut(this.#rollouts!, teachers, weight);
  }

  /** Rows of the next step, all of one teacher: the captions' when their share is due, else the next concept's. */
  #batch(): RefineState[] {
    const { batch, preserve } = this.#options;
    const conceptCount = this.#request.concepts.length;
    const generic = this.#pools[conceptCount];
    this.#preservedSteps += generic === undefined ? 0 : preserve;
    const own = this.#preservedSteps < 1;
    if (!own) this.#preservedSteps--;
    const { visited, ownPolicy } = own ? this.#pools[this.#turn++ % conceptCount]! : generic!;
    return Array.from({ length: batch }, () => {
      const [which] = this.#random.rand(1);
      const states = ownPolicy.length > 0 && which! < OWN_POLICY_SHARE ? ownPolicy : visited;
      return states[this.#random.randint(0, states.length, 1)[0]!]!;
    });
  }

  /** Loss and gradients of a batch, summed over its passes. */
  async #step(
    states: readonly RefineState[],
  ): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
    const { picturesPerPass } = this.#options;
    const gradients = new Map<string, Float32Array>();
    let loss = 0;
    for (let first = 0; first < states.length; first += picturesPerPass) {
      const out = await this.#pass(states.slice(first, first + picturesPerPass));
      loss += (out.loss!.data as Float32Array)[0]!;
      for (const name of this.#factors.trained) {
        const own = out[gradientOutput(name)]!.data as Float32Array;
        const sum = gradients.get(name);
        if (sum === undefined) gradients.set(name, own);
        else for (let i = 0; i < sum.length; i++) sum[i]! += own[i]!;
      }
    }
    return { loss, gradients };
  }

  #pass(states: readonly RefineState[]): Promise<Record<string, Tensor>> {
    const { batch, guidanceScale } = this.#options;
    const { latentHeight, latentWidth } = this.#latentSize;
    const { base, noPrompt } = this.#request;
    const { config } = base.parts.unet;
    const rows = new GuidedRows(states.length, { scale: guidanceScale });
    const cells = this.#cells;
    const target = float32([states.length, config.inChannels, latentHeight, latentWidth]);
    const weight = float32([states.length, 1, 1, 1]);
    states.forEach((state, i) => {
      target.data.set(state.target, i * cells);
      weight.data[i] = this.#weight(state.timestep) / (batch * cells);
    });
    return this.#training!.run({
      ...stateFeeds(states, rows, this.#latentSize, config),
      target,
      row_weight: weight,
      ...conditioningFeeds(
        rows.conditioning(
          noPrompt.fused.conditioning,
          states.map(({ prompt }) => prompt.fused.conditioning),
        ),
      ),
      ...this.#factors.feeds,
    });
  }

  /** λ(t) = min(σ/α, 1). */
  #weight(timestep: number): number {
    const last = this.#alphasCumprod.length - 1;
    const alpha = this.#alphasCumprod[Math.min(last, Math.max(0, Math.round(timestep)))]!;
    return Math.min(MAX_NOISE_RATIO, Math.sqrt((1 - alpha) / alpha));
  }

  /** As a share of what is trained. */
  #learningRate(step: number): number {
    const { learningRate, steps } = this.#options;
    const warm = Math.min(1, step / WARM_UP_STEPS);
    return learningRate * warm * 0.5 * (1 + Math.cos((Math.PI * (step - 1)) / steps));
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
    const judged = this.#pools.filter(({ teacher: { heldOut = [] } }) => heldOut.length > 0).length;
    const prompts = this.#pools.map(({ teacher }) => teacher.prompts.length);
    const total = refineWork(this.#options, prompts, judged).units;
    this.#done++;
    this.#execution.progress?.({ action, subject, done: this.#done, total });
  }
}
