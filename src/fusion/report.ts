/** What a fusion says about itself: plain data, the content of report.json. */
import type { FusionOptions } from './options.ts';
import type { Participant } from './participant.ts';
import type { LayerRetention } from './retention.ts';
import type { Stage } from './stage.ts';

/** How well one concept was kept. Shares are 1 − (squared error left) / (squared effect of its own change). */
export interface ConceptReport {
  /** What prompts call it. */
  readonly name: string;
  /** Absolute path of its file. */
  readonly file: string;
  /** Share of its effect that survived, over all layers of a stage; null where it trains nothing there. */
  readonly kept: Readonly<Record<Stage, number | null>>;
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
}

export interface StageReport {
  readonly stage: Stage;
  readonly layers: number;
  readonly ridge: number;
  readonly preserve: number;
  /** Largest relativeChange among its layers. */
  readonly largestChange: number | null;
  readonly elapsedMs: number;
}

export interface FusionReport {
  readonly concepts: readonly ConceptReport[];
  readonly stages: readonly StageReport[];
  readonly layers: readonly LayerReport[];
  /** Captions on which the base model's answers were kept. */
  readonly preservedCaptions: number;
  readonly elapsedMs: number;
  /** Largest resident memory of the process, bytes. */
  readonly peakMemoryBytes: number;
}

/** Where a running fusion stands. */
export interface FusionProgress {
  readonly stage: Stage;
  readonly action: 'collect' | 'preserve' | 'solve';
  /** Concept name or caption being collected, layer being solved. */
  readonly subject: string;
  /** Work units done and in all, over the whole fusion; a unit is one run of a network or one layer solved. */
  readonly done: number;
  readonly total: number;
}

/** Gathers a report while a fusion runs. */
export class Reporter {
  readonly #participants: readonly Participant[];
  readonly #options: FusionOptions;
  readonly #preservedCaptions: number;
  readonly #started = performance.now();
  readonly #layers: LayerReport[] = [];
  readonly #stageTimes = new Map<Stage, number>();
  readonly #effects: Record<Stage, { own: number; residual: number }>[];

  constructor(participants: readonly Participant[], options: FusionOptions, preservedCaptions: number) {
    this.#participants = participants;
    this.#options = options;
    this.#preservedCaptions = preservedCaptions;
    const none = () => ({ own: 0, residual: 0 });
    this.#effects = participants.map(() => ({ text: none(), cross: none(), spatial: none() }));
  }

  /** Run a stage's work and note its time. */
  async timed(stage: Stage, work: () => Promise<void>): Promise<void> {
    const start = performance.now();
    await work();
    this.#stageTimes.set(stage, performance.now() - start);
  }

  add(stage: Stage, retention: LayerRetention, rank: number, loss: number): void {
    retention.concepts.forEach(({ ownEffect, residual, retention: kept }, i) => {
      if (kept === null) return;
      this.#effects[i]![stage].own += ownEffect;
      this.#effects[i]![stage].residual += residual;
    });
    this.#layers.push({
      stage,
      layerName: retention.layerName,
      rank,
      kept: retention.concepts.map((concept) => concept.retention),
      loss,
      relativeChange: retention.relativeChange,
      crosstalk: retention.crosstalk,
    });
  }

  finish(): FusionReport {
    return {
      concepts: this.#participants.map(({ name, concept }, i) => this.#concept(name, concept.path, i)),
      stages: [...this.#stageTimes].map(([stage, elapsedMs]) => {
        const layers = this.#layers.filter((layer) => layer.stage === stage);
        const changes = layers.map((layer) => layer.relativeChange).filter((change) => change !== null);
        return {
          stage,
          layers: layers.length,
          ridge: this.#options.ridge[stage],
          preserve: this.#options.preserve[stage],
          largestChange: changes.length === 0 ? null : Math.max(...changes),
          elapsedMs,
        };
      }),
      layers: this.#layers,
      preservedCaptions: this.#preservedCaptions,
      elapsedMs: performance.now() - this.#started,
      peakMemoryBytes: process.resourceUsage().maxRSS * 1024,
    };
  }

  #concept(name: string, file: string, i: number): ConceptReport {
    const share = ({ own, residual }: { own: number; residual: number }): number | null =>
      own > 0 ? 1 - residual / own : null;
    const { text, cross, spatial } = this.#effects[i]!;
    const own = this.#layers.flatMap(({ layerName, kept }) => {
      const value = kept[i];
      return value === null || value === undefined ? [] : [{ layerName, kept: value }];
    });
    return {
      name,
      file,
      kept: { text: share(text), cross: share(cross), spatial: share(spatial) },
      worst: own.length === 0 ? null : own.reduce((a, b) => (b.kept < a.kept ? b : a)),
    };
  }
}
