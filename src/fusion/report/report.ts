/** What a fusion says about itself: plain data, the content of report.json. */

import type { HeldOutCheck } from '../best-check.ts';
import type { FusionConcept } from '../fusion-concept.ts';
import type { FusionMethodName } from '../solvers/method.ts';
import type { Stage } from '../stage.ts';
import type { MeasuredLayer } from './measure-stage.ts';

/** Share kept per stage; null where nothing is trained there. */
export type KeptPerStage = Readonly<Record<Stage, number | null>>;

/** How well one concept was kept. Shares are 1 − (squared error left) / (squared effect of its own change). */
export interface ConceptReport {
  /** What prompts call it. */
  readonly name: string;
  /** Absolute path of its file. */
  readonly file: string;
  /** Share of its effect that survived, over all layers of a stage; null where it trains nothing there. */
  readonly kept: KeptPerStage;
  /** The same for what feature-blind merges of the same concepts would have kept. */
  readonly baselines: { readonly average: KeptPerStage; readonly sum: KeptPerStage };
  /** Its worst layer; null if it trains none. */
  readonly worst: { readonly layerName: string; readonly kept: number } | null;
}

export interface LayerReport {
  readonly stage: Stage;
  readonly layerName: string;
  readonly rank: number;
  /** Share kept per concept, in the order of `concepts`; null where a concept does not train the layer. */
  readonly kept: readonly (number | null)[];
  /** Mean squared error over all feature rows and outputs (the loss of gradient fusion). */
  readonly loss: number;
  /** ‖ΔW*‖ / the largest ‖ΔW_i‖. Far above 1 means trouble. */
  readonly relativeChange: number | null;
  /** ‖X_i ΔW_jᵀ‖ [i][j]: effect of concept j's own change on the features of concept i. */
  readonly crosstalk: readonly (readonly number[])[];
  /** ‖X_reg ΔW*ᵀ‖ / ‖X_reg‖: what happens to the preserved features; null without preservation. */
  readonly preservedChange: number | null;
  /** Condition number of the system that was solved, or a lower bound; null where the method solves none. */
  readonly condition: number | null;
  /** What cutting the rank cost; null if it was not cut. */
  readonly truncation: Truncation | null;
  /** Gradient methods: mean squared error at the base, then after each iteration; else null. */
  readonly losses: readonly number[] | null;
}

/** Recompression of an exact change of rank Σ r_i. */
export interface Truncation {
  readonly exactRank: number;
  /** ‖X (ΔW − ΔW_k)ᵀ‖ / ‖X ΔWᵀ‖. */
  readonly featureError: number;
  /** ‖ΔW − ΔW_k‖ / ‖ΔW‖. */
  readonly plainError: number;
}

/** How a value of ridge or preservation was chosen on held-out features. */
export interface ParameterChoice {
  readonly chosen: number;
  /** In the order tried. */
  readonly candidates: readonly {
    readonly value: number;
    /** Mean share of the concepts' effect that survives on held-out features. */
    readonly kept: number;
    /** ‖ΔW*‖ / the largest ‖ΔW_i‖, the largest of any layer. */
    readonly largestChange: number | null;
    /** ‖X_reg ΔW*ᵀ‖ / ‖X_reg‖ over the stage; null without preserved features. */
    readonly preservedChange: number | null;
  }[];
  /** In words. */
  readonly reason: string;
}

export interface StageReport {
  readonly stage: Stage;
  readonly layers: number;
  readonly method: FusionMethodName;
  readonly ridge: number;
  readonly preserve: number;
  /** Where `auto` chose them. */
  readonly choices: { readonly ridge: ParameterChoice | null; readonly preserve: ParameterChoice | null };
  /** Largest relativeChange among its layers. */
  readonly largestChange: number | null;
  /** Of the solve, with the choice of parameters and all measurements; without collecting features. */
  readonly elapsedMs: number;
}

export interface FusionReport {
  readonly concepts: readonly ConceptReport[];
  readonly stages: readonly StageReport[];
  readonly layers: readonly LayerReport[];
  /**
   * Collisions [i][j] = √(Σ ‖X_i ΔW_jᵀ‖² / Σ ‖X_i ΔW_iᵀ‖²) over all layers: what concept j's own change does on concept i's
   * features, relative to what i's does there. 1 on the diagonal (0 for a concept without effect).
   */
  readonly collisions: readonly (readonly number[])[];
  /**
   * Where each concept's statistics came from: a file's path, `collected` now, or `fused`: in the partly fused model. A file
   * that was left, as it was collected with other options, is named behind a semicolon.
   */
  readonly statistics: readonly string[];
  /** Captions on which the base model's answers were kept. */
  readonly preservedCaptions: number;
  /** Loss of every step of the refinement, looks at held-out predictions, and its time; null without one. */
  readonly refinement: {
    readonly losses: readonly number[];
    readonly checks: readonly HeldOutCheck[];
    readonly elapsedMs: number;
  } | null;
  /** Of finding or collecting features. */
  readonly collectMs: number;
  /** Of everything. */
  readonly elapsedMs: number;
  /** Largest resident memory of the process, bytes. */
  readonly peakMemoryBytes: number;
}

/** Where a running fusion stands. */
export interface FusionProgress {
  readonly stage: Stage;
  readonly action: 'collect' | 'preserve' | 'hold out' | 'solve' | 'refine';
  /** Concept name or caption being collected, layer being solved. */
  readonly subject: string;
  /** Work units done and in all, over the whole fusion; a unit is one run of a network or one layer solved. */
  readonly done: number;
  readonly total: number;
  /** Part of the work that is done, 0–1: a denoising step weighs as much as many layers. */
  readonly share: number;
}

/** Squared norms over the layers of a stage. */
interface Effects {
  own: number;
  residual: number;
  average: number;
  sum: number;
}

/** What a solver says of one layer beside its change. */
export interface LayerNotes {
  readonly rank: number;
  readonly condition: number | null;
  readonly truncation: Truncation | null;
  readonly losses: readonly number[] | null;
}

type StageParameters = Pick<StageReport, 'method' | 'ridge' | 'preserve' | 'choices'>;

/** Gathers a report while a fusion runs. */
export class Reporter {
  readonly #concepts: readonly FusionConcept[];
  readonly #preservedCaptions: number;
  readonly #started = performance.now();
  readonly #layers: LayerReport[] = [];
  readonly #stageTimes = new Map<Stage, number>();
  readonly #parameters = new Map<Stage, StageParameters>();
  readonly #effects: Record<Stage, Effects>[];
  #statistics: readonly string[] = [];
  #collectMs = 0;
  #refineMs = 0;
  #refined: { readonly losses: readonly number[]; readonly checks: readonly HeldOutCheck[] } | null = null;

  constructor(concepts: readonly FusionConcept[], preservedCaptions: number) {
    this.#concepts = concepts;
    this.#preservedCaptions = preservedCaptions;
    const none = (): Effects => ({ own: 0, residual: 0, average: 0, sum: 0 });
    this.#effects = concepts.map(() => ({ text: none(), cross: none(), spatial: none() }));
  }

  /** Run a stage's solve and note its time. */
  async solving<T>(stage: Stage, work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work();
    this.#stageTimes.set(stage, performance.now() - start);
    return result;
  }

  /** Run a collection of features and note its time. */
  async collecting<T>(work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work();
    this.#collectMs += performance.now() - start;
    return result;
  }

  /** Note where each concept's statistics came from. */
  statistics(origins: readonly string[]): void {
    this.#statistics = origins;
  }

  /** Note what a stage is solved with. */
  stageParameters(
    stage: Stage,
    method: FusionMethodName,
    { ridge, preserve }: { readonly ridge: number; readonly preserve: number },
    choices: StageReport['choices'],
  ): void {
    this.#parameters.set(stage, { method, ridge, preserve, choices });
  }

  /** Run the refinement and note its time. */
  async refining<T>(work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work();
    this.#refineMs = performance.now() - start;
    return result;
  }

  /** Note how the loss of the refinement fell, and what held-out predictions said. */
  refined(losses: readonly number[], checks: readonly HeldOutCheck[]): void {
    this.#refined = { losses, checks };
  }

  add(stage: Stage, measured: MeasuredLayer, notes: LayerNotes): void {
    const { layerName, concepts, baselines, loss, relativeChange, crosstalk, preservedChange } = measured;
    concepts.forEach(({ ownEffect, residual, retention: kept }, i) => {
      if (kept === null) return;
      const effects = this.#effects[i]![stage];
      effects.own += ownEffect;
      effects.residual += residual;
      effects.average += baselines.average[i]!;
      effects.sum += baselines.sum[i]!;
    });
    this.#layers.push({
      stage,
      layerName,
      kept: concepts.map((concept) => concept.retention),
      loss,
      relativeChange,
      crosstalk,
      preservedChange,
      ...notes,
    });
  }

  finish(): FusionReport {
    return {
      concepts: this.#concepts.map(({ name, concept }, i) => this.#concept(name, concept.path, i)),
      stages: [...this.#stageTimes].map(([stage, elapsedMs]) => {
        const layers = this.#layers.filter((layer) => layer.stage === stage);
        const changes = layers.map((layer) => layer.relativeChange).filter((change) => change !== null);
        return {
          stage,
          layers: layers.length,
          ...this.#parameters.get(stage)!,
          largestChange: changes.length === 0 ? null : Math.max(...changes),
          elapsedMs,
        };
      }),
      layers: this.#layers,
      collisions: collisionsOf(this.#layers, this.#concepts.length),
      statistics: this.#statistics,
      preservedCaptions: this.#preservedCaptions,
      refinement: this.#refined === null ? null : { ...this.#refined, elapsedMs: this.#refineMs },
      collectMs: this.#collectMs,
      elapsedMs: performance.now() - this.#started,
      peakMemoryBytes: process.resourceUsage().maxRSS * 1024,
    };
  }

  #concept(name: string, file: string, i: number): ConceptReport {
    const effects = this.#effects[i]!;
    const kept = (what: 'residual' | 'average' | 'sum'): KeptPerStage => {
      const share = (stage: Stage): number | null =>
        effects[stage].own > 0 ? 1 - effects[stage][what] / effects[stage].own : null;
      return { text: share('text'), cross: share('cross'), spatial: share('spatial') };
    };
    const own = this.#layers.flatMap(({ layerName, kept: shares }) => {
      const value = shares[i];
      return value === null || value === undefined ? [] : [{ layerName, kept: value }];
    });
    return {
      name,
      file,
      kept: kept('residual'),
      baselines: { average: kept('average'), sum: kept('sum') },
      worst: own.length === 0 ? null : own.reduce((a, b) => (b.kept < a.kept ? b : a)),
    };
  }
}

function collisionsOf(layers: readonly LayerReport[], count: number): number[][] {
  const squares = Array.from({ length: count }, () => Array<number>(count).fill(0));
  for (const { crosstalk } of layers) {
    crosstalk.forEach((row, i) => {
      row.forEach((value, j) => {
        squares[i]![j]! += value ** 2;
      });
    });
  }
  return squares.map((row, i) => row.map((value) => (row[i]! > 0 ? Math.sqrt(value / row[i]!) : 0)));
}
