/**
 * The text encoder's half of a training step as two graphs, before and after the UNet: features, and their gradient taken
 * on to the embeddings and factors by the activations of the first.
 */
import { gradients } from '../graph/autodiff.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { type SplitGraph, splitGraph } from '../graph/split.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import { buildTextEncoder, type TextEncoderSize } from '../models/clip/text-encoder.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import { writeGradients } from './gradient-outputs.ts';

const FEATURES = 'last_hidden_state';

/**
 * Both halves of a step.
 * Inputs: those of `buildTextEncoder`, and `d_last_hidden_state` [B, T, D] for the second. Outputs: `last_hidden_state`
 * of the first; of the second `gradientOutput` of every factor and, where `embeddingGradient`, of `token_embeddings`;
 * a shared prefix holds no trained embedding.
 */
export function buildTextHalves(
  { weights, config }: ModelPart<ClipTextConfig>,
  size: TextEncoderSize,
  ranks: ReadonlyMap<string, number>,
  embeddingGradient: boolean,
): SplitGraph {
  const { graph } = buildTextEncoder(weights, config, size, { loraRanks: ranks });
  const g = GraphBuilder.continuing(graph);
  const features = graph.outputs.get(FEATURES)!;
  const seed = g.input(`d_${FEATURES}`, 'float32', features.shape);
  const input = new Map(graph.inputs.map((value) => [value.name, value]));
  const wanted = [...ranks.keys()]
    .flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)])
    .concat(embeddingGradient ? ['token_embeddings'] : [])
    .map((name) => input.get(name)!);
  writeGradients(g, gradients(g, new Map([[features, seed]]), wanted));
  return splitGraph(g.finish(), new Set([FEATURES]));
}
