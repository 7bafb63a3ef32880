/**
 * A fusion from concepts to merged deltas: statistics, then the solve, stage by stage, in the order in which each
 * feeds the next. Nothing is written here; see `output.ts`.
 */

import { InputFiles } from '../formats/input-files.ts';
import { type LowRank, rankOf } from '../linalg/low-rank.ts';
import type { LayerId } from '../models/families/layer-table.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { Pace } from '../pace.ts';
import { type ExecutionContext, executionContext, withProgress } from '../runtime/execution-context.ts';
import { GraphMatmulEngine } from '../runtime/matmul-engine.ts';
import { type FusionAction, fusionTasks, WorkDone } from './expected-work.ts';
import type { FusedLayer, Fusion } from './fusion.ts';
import { type FuseRequest, type FusionPlan, methodFor, planFusion, preserves } from './plan.ts';
import { addBase, addConcept, toolVersions } from './recipe.ts';
import { refineFusion } from './refine/refine-fusion.ts';
import type { RefineProgress } from './refine/refine-request.ts';
import { Reporter } from './report/report.ts';
import { measureStage, type SolvedLayer, type StageProblem, solveStage } from './solve-stage.ts';
import { fusionMethod } from './solvers/method.ts';
import { type Choices, chooseParameters, heldOutOptions } from './solvers/parameter-choice.ts';
import { idInStage, ofStage, STAGES, type Stage, stageOf } from './stage.ts';
import { type CollectContext, Collector, priorCaptions } from './statistics/collector.ts';
import type { StageStatistics, Statistics } from './statistics/statistics.ts';
import { type Collected, StatisticsStore, scopesOf } from './statistics/statistics-store.ts';

/**
 * Fuse concepts into one set of low-rank changes of the base.
 *
 * Per layer: W* = argmin Σ_i ‖X_i (W − W_i)ᵀ‖² + β ‖X_reg (W − W₀)ᵀ‖² + λ ‖W − W₀‖², in closed form (least-squares.ts).
 * Stages, prompts, rows and denoising as in Mix-of-Show's gradient_fusion.py; preservation, ridge and rows of contrast are
 * ours.
 * @throws {UsageError | MismatchError | FormatError} as `planFusion`, before any network runs
 * @throws {MismatchError | FormatError} for statistics beside a concept that are of another base or concept, or damaged;
 *   those of the cache are set aside
 * @throws {FormatError} naming an input that changed since it was opened
 * @throws {NumericalError} naming the layer whose system cannot be solved
 */
export async function fuse(request: FuseRequest): Promise<Fusion> {
  // The recipe needs them; what is missing is missing before the work.
  toolVersions();
  const plan = await planFusion(request);
  const run = new FusionRun(request, plan, new WorkDone(await fusionTasks(request.base, plan)));
  try {
    for (const stage of STAGES) {
      run.inputs.check();
      if (plan.layers[stage].length > 0) await run.stage(stage);
    }
    if (plan.options.refine > 0) await run.refine();
    run.inputs.check();
    run.report();
  } finally {
    await run.dispose();
  }
  return {
    base: request.base,
    concepts: plan.concepts,
    options: plan.options,
    captions: plan.captions,
    vocabulary: plan.vocabulary,
    layers: run.fused,
    report: run.reporter.finish(),
    inputs: run.inputs,
  };
}

/** What a stage is solved from. */
interface StageFeatures {
  readonly collected: readonly StageStatistics[];
  readonly prior: StageStatistics | null;
}

/** A solved stage, with what it was solved from. */
interface SolvedStage {
  readonly problem: StageProblem;
  readonly parameters: { readonly ridge: number; readonly preserve: number };
  readonly results: readonly SolvedLayer[];
}

/** One run's state: what the stages hand on to each other. */
class FusionRun {
  readonly fused = new Map<LayerId, FusedLayer>();
  readonly reporter: Reporter;
  readonly inputs: InputFiles;
  readonly #request: FuseRequest;
  readonly #plan: FusionPlan;
  readonly #store: StatisticsStore;
  readonly #execution: ExecutionContext;
  readonly #engine: GraphMatmulEngine;
  #own: { collected: readonly Statistics[]; prior: Statistics | null } | null = null;
  #heldOut: readonly Statistics[] | null = null;
  readonly #solved = new Map<Stage, SolvedStage>();
  readonly #work: WorkDone;

  constructor(request: FuseRequest, plan: FusionPlan, work: WorkDone) {
    this.#request = request;
    this.#plan = plan;
    this.#execution = executionContext(request);
    this.#engine = new GraphMatmulEngine({ use: 'every-step', ...this.#execution });
    const { signal, onNote } = request;
    this.inputs = new InputFiles(signal);
    addBase(this.inputs, request.base);
    for (const { concept } of plan.concepts) addConcept(this.inputs, concept);
    this.reporter = new Reporter(plan.concepts, plan.captions.length);
    this.#store = new StatisticsStore(
      request.base,
      request.cacheFolder ?? null,
      executionContext(this.#execution),
      {
        inputs: this.inputs,
        onNote,
      },
    );
    this.#work = work;
  }

  /** Collect and solve one stage. */
  async stage(stage: Stage): Promise<void> {
    const features = await this.reporter.collecting(() =>
      this.#plan.options.statistics === 'own' ? this.#ownFeatures(stage) : this.#fusedFeatures(stage),
    );
    const { base } = this.#request;
    const { concepts, layers } = this.#plan;
    const problem: StageProblem = {
      stage,
      layers: layers[stage].map((layerName) => {
        const { m, n } = base.parts.layers.get(idInStage(stage, layerName))!;
        return { layerName, outputSize: m, inputSize: n };
      }),
      ...features,
      deltas: concepts.map(({ deltas }) => ofStage(stage, layers[stage], deltas)),
    };
    const heldOut = await this.reporter.collecting(() => this.#heldOutFeatures(stage));
    await this.reporter.solving(stage, () => this.#solve(problem, heldOut));
  }

  async #solve(problem: StageProblem, heldOut: readonly StageStatistics[] | null): Promise<void> {
    const { stage } = problem;
    const { options } = this.#plan;
    const [ridge, preserve] = [options.ridge[stage], options.preserve[stage]];
    const choices: Choices =
      heldOut === null
        ? { ridge: null, preserve: null }
        : await chooseParameters({
            problem,
            heldOut,
            ridge,
            preserve,
            engine: this.#engine.multiply,
            pace: new Pace(this.#request.signal),
            onCandidate: () => this.#request.signal?.throwIfAborted(),
          });
    const parameters = {
      ridge: choices.ridge?.chosen ?? (ridge as number),
      preserve: choices.preserve?.chosen ?? (preserve as number),
    };
    const method = fusionMethod(methodFor(options.method, stage));
    const results = await solveStage(problem, {
      method,
      ...parameters,
      iterations: options.iterations,
      rank: options.rank,
      rankShare: options.rankShare,
      engine: this.#engine.multiply,
      pace: new Pace(this.#request.signal),
      onLayer: (layerName) => this.#advance(stage, 'solve', layerName),
    });
    this.reporter.stageParameters(stage, method.name, parameters, choices);
    this.#solved.set(stage, { problem, parameters, results });
    for (const { layerName, delta } of results) this.#keep(stage, layerName, delta);
  }

  /** Distil the concepts' own models into the UNet's factors, and measure what became of every layer. */
  async refine(): Promise<void> {
    const { base, signal } = this.#request;
    const { layers, losses, checks } = await this.reporter.refining(() =>
      refineFusion({
        base,
        ...this.#plan,
        deltas: new Map([...this.fused].map(([id, { delta }]) => [id, delta])),
        execution: withProgress(this.#execution, ({ action, subject }: RefineProgress) =>
          this.#advance(
            'spatial',
            'refine',
            action === 'step' ? `step ${subject}` : `pictures of ${subject}`,
          ),
        ),
      }),
    );
    this.reporter.refined(losses, checks);
    // What better predictions would have taken, but did not.
    this.#work.skip('spatial', 'refine', this.#plan.options.refine - losses.length);
    for (const [stage, solved] of this.#solved) {
      if (stage === 'text') continue;
      const settings = { ...solved.parameters, engine: this.#engine.multiply, pace: new Pace(signal) };
      const measured = await measureStage(solved.problem, settings, layers);
      const results = solved.results.map((layer) => ({
        ...layer,
        delta: layers.get(layer.layerName)!,
        measured: measured.get(layer.layerName)!,
      }));
      this.#solved.set(stage, { ...solved, results });
      for (const { layerName, delta } of results) this.#keep(stage, layerName, delta);
    }
  }

  /** Hand all layers to the report. */
  report(): void {
    for (const [stage, { results }] of this.#solved) {
      for (const { delta, measured, condition, truncation, losses } of results) {
        this.reporter.add(stage, measured, { rank: rankOf(delta), condition, truncation, losses });
      }
    }
  }

  #keep(stage: Stage, name: string, delta: LowRank): void {
    const id = idInStage(stage, name);
    const { component, layerName } = this.#request.base.parts.layers.get(id)!;
    this.fused.set(id, { stage, component, layerName, delta });
  }

  async dispose(): Promise<void> {
    this.#store.close();
    await this.#engine.dispose();
  }

  /** Every concept in its own model, all stages at once; kept for the stages to come. */
  async #ownFeatures(stage: Stage): Promise<StageFeatures> {
    if (this.#own === null) {
      const { concepts, options, captions } = this.#plan;
      const scopes = scopesOf(this.#plan.layers);
      const collected: Statistics[] = [];
      const origins: string[] = [];
      for (const concept of concepts) {
        const found = await this.#store.concept(concept, scopes, options, this.#collecting('collect'));
        if (!found.fresh) this.#skip('collect', options.steps * options.runs);
        collected.push(found.statistics);
        origins.push(originOf(found));
      }
      let prior: Statistics | null = null;
      if (captions.length > 0) {
        const found = await this.#store.prior(captions, scopes, options, this.#collecting('preserve'));
        if (!found.fresh) this.#skip('preserve', options.steps * priorCaptions(captions, options).length);
        prior = found.statistics;
      }
      this.#own = { collected, prior };
      this.reporter.statistics(origins);
    }
    return {
      collected: this.#own.collected.map((concept) => concept[stage]),
      prior: preserves(this.#plan.options, stage) ? (this.#own.prior?.[stage] ?? null) : null,
    };
  }

  /** As the reference collects: each stage in the model with the stages before it fused. */
  async #fusedFeatures(stage: Stage): Promise<StageFeatures> {
    const { base, noise } = this.#request;
    const { concepts, options, captions, vocabulary, layers } = this.#plan;
    this.reporter.statistics(concepts.map(() => 'fused'));
    const collector = new Collector(base, vocabulary, layers, options, this.#collecting('collect'));
    const collected: StageStatistics[] = [];
    for (const [i, concept] of concepts.entries()) {
      const { name } = concept;
      const { deltas } = concept;
      const behindText = this.#partlyFused('text', deltas);
      collected.push(
        stage === 'text'
          ? await collector.text(name, deltas)
          : stage === 'cross'
            ? await collector.cross(name, behindText)
            : await collector.spatial(name, this.#partlyFused('cross', behindText), noise?.[i]),
      );
    }
    if (!preserves(options, stage)) return { collected, prior: null };
    const ofBase = new Collector(base, vocabulary, layers, options, this.#collecting('preserve'));
    const prior =
      stage === 'text'
        ? await ofBase.textPrior(captions)
        : stage === 'cross'
          ? await ofBase.crossPrior(captions)
          : await ofBase.spatialPrior(captions);
    return { collected, prior };
  }

  /** A concept's deltas with those of an earlier stage replaced by the fused ones, if that stage was fused. */
  #partlyFused(stage: Stage, own: ModelDeltas): ModelDeltas {
    if (!this.#plan.options.stages.includes(stage)) return own;
    const { layers } = this.#request.base.parts;
    const rest = [...own].filter(([id]) => stageOf(layers.get(id)!) !== stage);
    const fused = [...this.fused].filter(([, layer]) => layer.stage === stage);
    return new Map([...rest, ...fused.map(([id, { delta }]) => [id, delta] as const)]);
  }

  /** Features for choosing parameters by; null where all are given. */
  async #heldOutFeatures(stage: Stage): Promise<readonly StageStatistics[] | null> {
    const { options, concepts } = this.#plan;
    if (options.ridge[stage] !== 'auto' && options.preserve[stage] !== 'auto') return null;
    if (this.#heldOut === null) {
      const held = heldOutOptions(options);
      const collected: Statistics[] = [];
      for (const concept of concepts) {
        const found = await this.#store.concept(
          concept,
          scopesOf(this.#plan.layers),
          held,
          this.#collecting('hold out'),
        );
        if (!found.fresh) this.#skip('hold out', held.steps * held.runs);
        collected.push(found.statistics);
      }
      this.#heldOut = collected;
    }
    return this.#heldOut.map((concept) => concept[stage]);
  }

  #collecting(action: FusionAction): CollectContext {
    return withProgress(this.#execution, ({ stage, subject }) => this.#advance(stage, action, subject));
  }

  #advance(stage: Stage, action: FusionAction, subject: string): void {
    this.#request.signal?.throwIfAborted();
    const done = this.#work.advance(stage, action);
    this.#request.onProgress?.({ stage, action, subject, ...done });
  }

  /** Work that statistics on disk save: the steps of one subject, and its prompts. */
  #skip(action: FusionAction, steps: number): void {
    const { layers } = this.#plan;
    for (const stage of STAGES) {
      if (layers[stage].length > 0) this.#work.skip(stage, action, stage === 'spatial' ? steps : 1);
    }
  }
}

function originOf({ file, fresh, passedOver }: Collected): string {
  const origin = file === null || fresh ? 'collected' : file;
  return passedOver === undefined ? origin : `${origin}; ${passedOver} was collected with other options`;
}
