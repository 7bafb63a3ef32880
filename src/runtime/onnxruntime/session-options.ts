/** How onnxruntime loads a graph, by what the graph is for. */
import type { InferenceSession } from 'onnxruntime-node';
import { halvesAreWidenedInRuns } from '../half-weights.ts';
import type { GraphUse, RunSettings } from '../runtime.ts';
import type { EncodedGraph } from './encode.ts';

interface Plan {
  /**
   * Keep a second copy of each weight, reordered for matrix products. Without it a graph loads faster and in less
   * memory; products run at the same speed only when weights are used once per run.
   */
  readonly reorderWeights: boolean;
  /** Widen a weight of half width for each node that reads it, where that happens in runs: the way back reads what the way there did. */
  readonly widenAnew: boolean;
  /** Let threads wait in a busy loop between operators, which would slow down other work. */
  readonly allowSpinning: boolean;
}

const PLANS: Readonly<Record<GraphUse, Plan>> = {
  once: { reorderWeights: false, widenAnew: false, allowSpinning: true },
  'every-step': { reorderWeights: true, widenAnew: false, allowSpinning: true },
  training: { reorderWeights: false, widenAnew: true, allowSpinning: true },
  'many-small': { reorderWeights: true, widenAnew: false, allowSpinning: false },
};

/** Whether each node that reads a weight of half width has a cast of its own (widened-weights.ts). */
export function widensAnew(use: GraphUse): boolean {
  return halvesAreWidenedInRuns() && PLANS[use].widenAnew;
}

/** Options of `InferenceSession.create` for an encoded graph. */
export function sessionOptions(
  { weightFolder, inMemory }: EncodedGraph,
  use: GraphUse,
  { threads }: RunSettings,
): InferenceSession.SessionOptions {
  const { reorderWeights, allowSpinning } = PLANS[use];
  const session: Record<string, string | Record<string, string>> = {};
  if (weightFolder !== null) session.model_external_initializers_file_folder_path = weightFolder;
  if (!reorderWeights) session.disable_prepacking = '1';
  if (!allowSpinning) session.intra_op = { allow_spinning: '0' };
  return {
    // 'all' reorders convolution weights: 12–19 s of loading for 4 % of speed at full size.
    graphOptimizationLevel: 'extended',
    logSeverityLevel: 3,
    // All values of a run in one block, from the second run on: 0.4 GB more at full size, and no faster.
    enableMemPattern: false,
    // An undefined property is refused there.
    ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
    ...(inMemory.length === 0
      ? {}
      : { externalData: inMemory.map(({ location, data }) => ({ path: location, data })) }),
    extra: { session, ...withoutOptimizers(use) },
  };
}

/** What would widen weights when they are loaded, or once for all: these optimizers change casts of weights, and little else. */
function withoutOptimizers(use: GraphUse): Readonly<Record<string, Record<string, string>>> {
  if (!halvesAreWidenedInRuns()) return {};
  const names = ['ConstantFolding', ...(widensAnew(use) ? ['CommonSubexpressionElimination'] : [])];
  return { optimization: { disable_specified_optimizers: names.join(';') } };
}
