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
  /** Let threads wait in a busy loop between operators, which would slow down other work. */
  readonly allowSpinning: boolean;
}

const PLANS: Readonly<Record<GraphUse, Plan>> = {
  once: { reorderWeights: false, allowSpinning: true },
  'every-step': { reorderWeights: true, allowSpinning: true },
  training: { reorderWeights: false, allowSpinning: true },
  'many-small': { reorderWeights: true, allowSpinning: false },
};

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
    // What it folds are the casts of half-width weights, and little else.
    extra: {
      session,
      ...(halvesAreWidenedInRuns()
        ? { optimization: { disable_specified_optimizers: 'ConstantFolding' } }
        : {}),
    },
  };
}
