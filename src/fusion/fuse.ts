/**
 * A fusion from concepts to merged deltas: collect statistics, solve, stage by stage, in the order in which each
 * feeds the next. Nothing is written here; see `output.ts`.
 */

import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { type LowRank, rankOf } from '../linalg/low-rank.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { encodeText } from '../models/clip/encode-text.ts';
import { textLinearLayers } from '../models/clip/structure.ts';
import { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import type { Component } from '../models/keys/module-path.ts';
import type { LayerDeltas } from '../models/lora.ts';
import { crossAttentionNames, linearLayers } from '../models/unet/structure.ts';
import { checkpointSchedule } from '../sampling/checkpoint-schedule.ts';
import { dpmSolver } from '../sampling/samplers/dpm-solver.ts';
import { TorchGenerator } from '../tensor/random.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { defaultCaptions, denoisedCaptions, withEmptyPrompt } from './captions.ts';
import {
  addGrams,
  collectCross,
  collectCrossPrior,
  collectText,
  type DenoisingRun,
  type LayerGrams,
  type SpatialGrams,
  spatialCollector,
} from './collect.ts';
import { checkFusionOptions, DEFAULTS, type FusionOptions } from './options.ts';
import { type Participant, type ParticipantInput, prepareParticipant } from './participant.ts';
import { type ConceptPrompts, conceptPrompts } from './prompts.ts';
import { type FusionProgress, type FusionReport, Reporter } from './report.ts';
import { solveStage } from './solve-stage.ts';
import { STAGES, type Stage, stageOf } from './stage.ts';

export interface FuseRequest {
  readonly base: Checkpoint;
  /** At least one concept, in the order in which their words are numbered. */
  readonly participants: readonly ParticipantInput[];
  /** What is left out takes its value from `DEFAULTS`. */
  readonly options?: Partial<FusionOptions>;
  /** Captions to preserve; the empty prompt is added. Default: the base's own list, or the shipped one. */
  readonly preserveCaptions?: readonly string[];
  /** Initial noise of each participant's first denoising run, [4 · h · w]. Default: drawn from the seed. */
  readonly noise?: readonly Float32Array[];
  readonly onProgress?: (progress: FusionProgress) => void;
  /** Stops the fusion between two runs of a network by throwing its reason. */
  readonly signal?: AbortSignal;
}

/** One merged layer. */
export interface FusedLayer {
  readonly stage: Stage;
  readonly component: Component;
  readonly layerName: string;
  /** W* − W₀, exactly, of rank ≤ Σ r_i. */
  readonly delta: LowRank;
}

export interface Fusion {
  readonly base: Checkpoint;
  readonly participants: readonly Participant[];
  readonly options: FusionOptions;
  /** Captions that were preserved, the empty prompt among them; empty if preservation was off. */
  readonly captions: readonly string[];
  readonly vocabulary: BoundVocabulary;
  /** Keyed by `${component}:${layerName}`, in the base's own layer order. */
  readonly layers: ReadonlyMap<string, FusedLayer>;
  readonly report: FusionReport;
}

/** What a request would do, before any network runs. */
export interface FusionPlan {
  readonly participants: readonly Participant[];
  readonly options: FusionOptions;
  readonly captions: readonly string[];
  readonly vocabulary: BoundVocabulary;
  /** Layers that at least one concept trains, per stage, in the base's own order. */
  readonly layers: Readonly<Record<Stage, readonly string[]>>;
}

/**
 * Check a request and say what it would do. Reads the concepts' factors, runs no network.
 * @throws {UsageError} for impossible options, no concepts, or words used twice
 * @throws {MismatchError} for concepts that do not fit the base
 */
export async function planFusion(request: FuseRequest): Promise<FusionPlan> {
  const { base } = request;
  const options = { ...DEFAULTS, ...request.options };
  checkFusionOptions(options);
  if (request.participants.length === 0) throw new UsageError('fuse: expected at least one concept');
  const participants = request.participants.map((input) => prepareParticipant(base, input));
  const crossLayers = crossAttentionNames(base.unet.config);
  const concepts = participants.map(({ concept }) => concept);
  const vocabulary = bindConcepts(base.tokenizer, concepts, crossLayers.length);
  const wanted = STAGES.some((stage) => options.stages.includes(stage) && options.preserve[stage] > 0);
  const captions = wanted ? withEmptyPrompt(request.preserveCaptions ?? (await defaultCaptions(base))) : [];
  const trained = new Set(participants.flatMap(({ concept }) => [...concept.layers.keys()]));
  const known = [
    ...[...textLinearLayers(base.textEncoder.config).keys()].map((name) => ['text_encoder', name] as const),
    ...[...linearLayers(base.unet.config).keys()].map((name) => ['unet', name] as const),
  ].filter(([component, name]) => trained.has(`${component}:${name}`));
  const layersOf = (stage: Stage): string[] =>
    known
      .filter(
        ([component, layerName]) =>
          options.stages.includes(stage) && stageOf({ component, layerName }) === stage,
      )
      .map(([, layerName]) => layerName);
  const layers = { text: layersOf('text'), cross: layersOf('cross'), spatial: layersOf('spatial') };
  return { participants, options, captions, vocabulary, layers };
}

/**
 * Fuse concepts into one set of low-rank changes of the base.
 *
 * Per layer: W* = argmin Σ_i ‖X_i (W − W_i)ᵀ‖² + β ‖X_reg (W − W₀)ᵀ‖² + λ ‖W − W₀‖², in closed form (least-squares.ts).
 * Stages, prompts, rows and denoising as in Mix-of-Show's gradient_fusion.py; preservation and ridge are ours.
 * @throws {UsageError | MismatchError | FormatError} as `planFusion`, before any network runs
 * @throws {NumericalError} naming the layer whose system cannot be solved
 */
export async function fuse(request: FuseRequest): Promise<Fusion> {
  const plan = await planFusion(request);
  const run = new FusionRun(request, plan);
  const stages: readonly [Stage, () => Promise<void>][] = [
    ['text', () => run.text()],
    ['cross', () => run.cross()],
    ['spatial', () => run.spatial()],
  ];
  for (const [stage, work] of stages) {
    if (plan.layers[stage].length > 0) await run.reporter.timed(stage, work);
  }
  return {
    base: request.base,
    participants: plan.participants,
    options: plan.options,
    captions: plan.captions,
    vocabulary: plan.vocabulary,
    layers: run.fused,
    report: run.reporter.finish(),
  };
}

/**
 * Seed of one denoising run: from the run's own seed, what it draws and its number, so that a concept's noise does not
 * depend on which other concepts are fused with it. FNV-1a.
 */
function seedOf(seed: number, subject: string, run: number): number {
  let hash = 0x811c9dc5;
  for (const char of `${seed}\n${subject}\n${run}`) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x01000193);
  return hash >>> 0;
}

/** One run's state: what the stages hand on to each other. */
class FusionRun {
  readonly fused = new Map<string, FusedLayer>();
  readonly reporter: Reporter;
  readonly #request: FuseRequest;
  readonly #plan: FusionPlan;
  readonly #embeddings: TokenEmbeddings;
  readonly #prompts: readonly ConceptPrompts[];
  readonly #captionIds: readonly (readonly number[])[];
  #done = 0;

  constructor(request: FuseRequest, plan: FusionPlan) {
    const { base } = request;
    this.#request = request;
    this.#plan = plan;
    this.#embeddings = new TokenEmbeddings(
      base.textEncoder.weights,
      base.textEncoder.config,
      plan.vocabulary.embeddingRows(),
    );
    this.#prompts = plan.participants.map(({ name }) =>
      conceptPrompts(plan.vocabulary, name, plan.options.promptTemplates),
    );
    this.#captionIds = plan.captions.map((caption) => base.tokenizer.encodePadded(caption).ids);
    this.reporter = new Reporter(plan.participants, plan.options, plan.captions.length);
  }

  async text(): Promise<void> {
    const { base } = this.#request;
    const layers = this.#plan.layers.text;
    const collected: LayerGrams[] = [];
    for (const [i, { name, textDeltas }] of this.#plan.participants.entries()) {
      const prompts = this.#prompts[i]!.ids.flat();
      collected.push(await collectText(base, this.#embeddings, prompts, textDeltas, layers));
      this.#advance('text', 'collect', name);
    }
    let prior: LayerGrams | null = null;
    if (this.#preserves('text')) {
      // Not padded: a caption's own tokens are what is to stay.
      const captions = this.#plan.captions.map((caption) => base.tokenizer.encode(caption));
      prior = await collectText(base, this.#embeddings, captions, new Map(), layers);
      this.#advance('text', 'preserve', `${captions.length} captions`);
    }
    this.#solve('text', 'text_encoder', collected, prior);
  }

  async cross(): Promise<void> {
    const { base } = this.#request;
    const crossLayers = crossAttentionNames(base.unet.config);
    const collected: LayerGrams[] = [];
    for (const [i, participant] of this.#plan.participants.entries()) {
      const { ids, conceptRows } = this.#prompts[i]!;
      const deltas = this.#textDeltasFor(participant);
      collected.push(await collectCross(base, this.#embeddings, ids, deltas, conceptRows, crossLayers));
      this.#advance('cross', 'collect', participant.name);
    }
    let prior: LayerGrams | null = null;
    if (this.#preserves('cross')) {
      prior = await collectCrossPrior(base, this.#embeddings, this.#captionIds, crossLayers);
      this.#advance('cross', 'preserve', `${this.#captionIds.length} captions`);
    }
    this.#solve('cross', 'unet', collected, prior);
  }

  async spatial(): Promise<void> {
    const { base, signal } = this.#request;
    const { options, participants } = this.#plan;
    const layers = this.#plan.layers.spatial;
    const config = await checkpointSchedule(base, 'DPMSolverMultistepScheduler');
    const { sampleSize: size, inChannels } = base.unet.config;
    const settings = {
      sampler: dpmSolver(config, options.steps),
      latentSize: { height: size, width: size },
      guidanceScale: options.guidanceScale,
      ...(signal === undefined ? {} : { signal }),
    };
    const collect = async (
      deltas: LayerDeltas,
      runs: readonly DenoisingRun[],
      action: 'collect' | 'preserve',
    ): Promise<SpatialGrams> => {
      const collector = await spatialCollector(base, deltas, layers, settings);
      try {
        for (const run of runs) {
          await collector.run(run, () => this.#advance('spatial', action, run.subject));
        }
        return collector.finish();
      } finally {
        await collector.dispose();
      }
    };
    const noiseOf = (subject: string, run: number): Float32Array =>
      new TorchGenerator(seedOf(options.seed, subject, run)).randn(inChannels * size * size);
    const emptyContext = await this.#plainContext('');
    const collected: SpatialGrams[] = [];
    for (const [i, participant] of participants.entries()) {
      const { padded } = this.#prompts[i]!;
      const deltas = this.#textDeltasFor(participant);
      const runs: DenoisingRun[] = [];
      for (let run = 0; run < options.runs; run++) {
        const context = await this.#context(padded[run % padded.length]!, deltas);
        const given = run === 0 ? this.#request.noise?.[i] : undefined;
        runs.push({
          subject: participant.name,
          noise: given ?? noiseOf(participant.name, run),
          context,
          emptyContext,
        });
      }
      collected.push(await collect(this.#unetDeltasFor(participant), runs, 'collect'));
    }
    let prior: LayerGrams | null = null;
    if (this.#preserves('spatial')) {
      // Guidance steers away from the empty prompt on the concepts' own latents: there it has to stay as it is. Measured
      // (docs/fusion.md), this keeps other prompts as well as captions do, and concepts better.
      const empty = collected.flatMap((grams) => (grams.empty === null ? [] : [grams.empty]));
      prior = empty.length > 0 ? addGrams(empty) : await this.#captionGrams(collect, noiseOf);
    }
    const prompts = collected.map(({ prompt }) => prompt);
    this.#solve('spatial', 'unet', prompts, prior);
  }

  /** Generic captions drawn in the base model, without guidance. */
  async #captionGrams(
    collect: (
      deltas: LayerDeltas,
      runs: readonly DenoisingRun[],
      action: 'collect' | 'preserve',
    ) => Promise<SpatialGrams>,
    noiseOf: (subject: string, run: number) => Float32Array,
  ): Promise<LayerGrams> {
    const emptyContext = await this.#plainContext('');
    const runs: DenoisingRun[] = [];
    for (const caption of denoisedCaptions(this.#plan.captions)) {
      const context = await this.#plainContext(caption);
      runs.push({ subject: caption, noise: noiseOf(caption, 0), context, emptyContext });
    }
    return (await collect(new Map(), runs, 'preserve')).prompt;
  }

  #preserves(stage: Stage): boolean {
    return this.#plan.options.preserve[stage] > 0;
  }

  /** The text encoder a participant's features are made by: its own, or the fused one if that stage was solved. */
  #textDeltasFor({ textDeltas }: Participant): LayerDeltas {
    const { statistics, stages } = this.#plan.options;
    return statistics === 'own' || !stages.includes('text') ? textDeltas : this.#fusedDeltas('text');
  }

  /** The UNet a participant's spatial features are made by: its own layers, with fused K and V if those were solved. */
  #unetDeltasFor({ unetDeltas }: Participant): LayerDeltas {
    const { statistics, stages } = this.#plan.options;
    if (statistics === 'own' || !stages.includes('cross')) return unetDeltas;
    const spatial = [...unetDeltas].filter(
      ([layerName]) => stageOf({ component: 'unet', layerName }) === 'spatial',
    );
    return new Map([...spatial, ...this.#fusedDeltas('cross')]);
  }

  #fusedDeltas(stage: Stage): LayerDeltas {
    const layers = [...this.fused.values()].filter((layer) => layer.stage === stage);
    return new Map(layers.map(({ layerName, delta }) => [layerName, delta]));
  }

  /** Text features per cross-attention, [1, L, T, D]. */
  async #context(
    perLayer: readonly (readonly number[])[],
    deltas: LayerDeltas,
  ): Promise<Tensor<Float32Array>> {
    const { hiddenStates } = await encodeText(this.#request.base.textEncoder, this.#embeddings, perLayer, {
      deltas,
    });
    return float32([1, ...hiddenStates.shape], hiddenStates.data);
  }

  /** A caption as the base model reads it, the same for every cross-attention. */
  #plainContext(caption: string): Promise<Tensor<Float32Array>> {
    const { base } = this.#request;
    const { ids } = base.tokenizer.encodePadded(caption);
    return this.#context(Array(crossAttentionNames(base.unet.config).length).fill(ids), new Map());
  }

  #solve(
    stage: Stage,
    component: Component,
    collected: readonly LayerGrams[],
    prior: LayerGrams | null,
  ): void {
    const { options, participants, layers } = this.#plan;
    const deltasOf = ({ textDeltas, unetDeltas }: Participant): LayerDeltas =>
      stage === 'text' ? textDeltas : unetDeltas;
    const shapes =
      stage === 'text'
        ? textLinearLayers(this.#request.base.textEncoder.config)
        : linearLayers(this.#request.base.unet.config);
    const results = solveStage({
      layers: layers[stage].map((layerName) => ({ layerName, outputSize: shapes.get(layerName)![0] })),
      collected,
      prior,
      deltas: participants.map(deltasOf),
      ridge: options.ridge[stage],
      preserve: options.preserve[stage],
      onLayer: (layerName) => this.#advance(stage, 'solve', layerName),
    });
    for (const { layerName, delta, retention, loss } of results) {
      this.fused.set(`${component}:${layerName}`, { stage, component, layerName, delta });
      this.reporter.add(stage, retention, rankOf(delta), loss);
    }
  }

  #advance(stage: Stage, action: FusionProgress['action'], subject: string): void {
    this.#request.signal?.throwIfAborted();
    this.#done++;
    this.#request.onProgress?.({ stage, action, subject, done: this.#done, total: this.#total() });
  }

  #total(): number {
    const { layers, options, participants, captions } = this.#plan;
    return STAGES.filter((stage) => layers[stage].length > 0).reduce((sum, stage) => {
      const spatial = stage === 'spatial';
      const collecting = participants.length * (spatial ? options.steps * options.runs : 1);
      const captionRuns = options.guidanceScale === 1 ? denoisedCaptions(captions).length : 0;
      const preserving = spatial ? options.steps * captionRuns : 1;
      return sum + collecting + (this.#preserves(stage) ? preserving : 0) + layers[stage].length;
    }, 0);
  }
}
