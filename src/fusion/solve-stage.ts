/** One stage's layers, solved input by input: layers that read the same input share one factorisation. */
import type { Gram } from '../linalg/gram.ts';
import { gramSize } from '../linalg/gram.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import type { LayerDeltas } from '../models/lora.ts';
import type { LayerGrams } from './collect.ts';
import { factoriseInput, type NormalSystem, solveLayer } from './least-squares.ts';
import type { InputProblem, LayerProblem } from './problem.ts';
import { fusionLoss, type LayerRetention, measureRetention } from './retention.ts';

export interface StageProblem {
  readonly layers: readonly { readonly layerName: string; readonly outputSize: number }[];
  /** Statistics per concept, in the order of `deltas`. */
  readonly collected: readonly LayerGrams[];
  /** Statistics of the generic captions in the base model; null without preservation. */
  readonly prior: LayerGrams | null;
  readonly deltas: readonly LayerDeltas[];
  readonly ridge: number;
  readonly preserve: number;
  /** Called after each solved layer. */
  readonly onLayer?: (layerName: string) => void;
}

export interface SolvedLayer {
  readonly layerName: string;
  readonly delta: LowRank;
  readonly retention: LayerRetention;
  /** Mean squared error over all feature rows and outputs. */
  readonly loss: number;
}

/** Solve all layers of a stage. @throws {NumericalError} naming the layer whose system is singular. */
export function solveStage(problem: StageProblem): SolvedLayer[] {
  const { layers, collected, prior, deltas, onLayer } = problem;
  // Keyed by the first concept's matrix: layers with one input share it as an object.
  const systems = new Map<Gram, NormalSystem>();
  const solved: SolvedLayer[] = [];
  for (const { layerName, outputSize } of layers) {
    const grams = collected.map((concept) => concept.grams.get(layerName)!);
    let system = systems.get(grams[0]!);
    if (system === undefined) {
      const input: InputProblem = {
        inputName: layerName,
        inputSize: gramSize(grams[0]!),
        grams,
        preserve: prior === null ? null : { gram: prior.grams.get(layerName)!, weight: problem.preserve },
        ridge: problem.ridge,
      };
      system = factoriseInput(input);
      systems.set(grams[0]!, system);
    }
    const layer: LayerProblem = {
      layerName,
      outputSize,
      deltas: deltas.map((concept) => concept.get(layerName) ?? null),
      input: system.input,
    };
    const delta = solveLayer(system, layer);
    const rows = collected.reduce((sum, concept) => sum + concept.rows.get(layerName)!, 0);
    solved.push({
      layerName,
      delta,
      retention: measureRetention(layer, delta),
      loss: fusionLoss(layer, delta, rows),
    });
    onLayer?.(layerName);
  }
  return solved;
}
