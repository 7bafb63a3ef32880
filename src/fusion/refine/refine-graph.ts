/** The loss of a refinement and its gradients as one graph. */
import { gradients } from '../../graph/autodiff.ts';
import { GraphBuilder } from '../../graph/builder.ts';
import { writeGradients } from '../../graph/gradient-outputs.ts';
import type { Graph } from '../../graph/graph.ts';
import { mul, sub } from '../../graph/ops/elementwise.ts';
import { slice } from '../../graph/ops/movement.ts';
import { reduceSum } from '../../graph/ops/reduction.ts';
import { pruned } from '../../graph/prune.ts';
import type { Value } from '../../graph/value.ts';
import type { ModelPart } from '../../models/checkpoint.ts';
import { loraDownInput, loraUpInput } from '../../models/network.ts';
import type { UnetConfig } from '../../models/unet/config.ts';
import { buildUnet, type UnetSize } from '../../models/unet/unet.ts';
import { float32 } from '../../tensor/tensor.ts';
import { blockOf } from '../../training/unet-graph.ts';

export interface RefineGraphOptions {
  /** Layers with factors as inputs, with their ranks. */
  readonly ranks: ReadonlyMap<string, number>;
  /** Those of them whose factors' gradients are wanted. */
  readonly trained: Iterable<string>;
  /** w of the predictions without a prompt; 0: there are none. */
  readonly unprompted: number;
  /** Compute the values inside resnets and transformers a second time instead of keeping them. */
  readonly recomputeBlocks: boolean;
}

/**
 * Write the graph: Σ_b λ_b ‖(e_b − w e_∅b) − target_b‖² of B pictures' predictions with and without their prompts, and its gradients.
 *
 * Inputs: those of `buildUnet` for 2 B rows, those without prompts first (for B rows with prompts where w is 0); `target` [B, C, h, w];
 * `row_weight` [B, 1, 1, 1].
 * Outputs: `loss` [1]; `gradientOutput` of both factors of every trained layer.
 * @param batch B
 * @throws {MissingWeightError | ShapeError | MismatchError} when weights or ranks do not fit the config
 */
export function buildRefineStep(
  { weights, config }: ModelPart<UnetConfig>,
  batch: number,
  size: Omit<UnetSize, 'batch'>,
  { ranks, trained, unprompted, recomputeBlocks }: RefineGraphOptions,
): Graph {
  const rows = unprompted === 0 ? batch : 2 * batch;
  const network = buildUnet(weights, config, { ...size, batch: rows }, { loraRanks: ranks });
  const g = GraphBuilder.continuing(network.graph);
  const all = network.graph.outputs.get('noise_pred')!;
  const predicted = unprompted === 0 ? all : promptedPart(g, all, batch, unprompted);
  const target = g.input('target', 'float32', predicted.shape);
  const weight = g.input('row_weight', 'float32', [batch, 1, 1, 1]);
  const difference = sub(g, predicted, target);
  const squares = mul(g, mul(g, difference, difference), weight);
  const loss = reduceSum(g, reduceSum(g, squares, [1, 2, 3], false), [0]);
  g.output('loss', loss);
  const input = new Map(network.graph.inputs.map((value) => [value.name, value]));
  const wanted = [...trained].flatMap((layer) => [
    input.get(loraDownInput(layer))!,
    input.get(loraUpInput(layer))!,
  ]);
  const seed = g.constant(float32([1], [1]));
  writeGradients(g, gradients(g, new Map([[loss, seed]]), wanted, recomputeBlocks ? { blockOf } : {}));
  return pruned(g.finish());
}

/** e_c − w e_∅ of rows [2 B, …]. */
function promptedPart(g: GraphBuilder, rows: Value, batch: number, unprompted: number): Value {
  const without = slice(g, rows, 0, 0, batch);
  const prompted = slice(g, rows, 0, batch, 2 * batch);
  return sub(g, prompted, mul(g, without, g.constant(float32([1], [unprompted]))));
}
