/**
 * The text encoder's half of a training step: a graph for its features, and one that runs it again and takes the
 * features' gradient on to the embeddings and factors. Keeping its activations while the
 * UNet runs was measured instead: 2 % of a step of ED-LoRA at the size of SD 1.5, for half a gigabyte.
 */
import { gradients } from '../graph/autodiff.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { writeGradients } from '../graph/gradient-outputs.ts';
import type { Graph } from '../graph/graph.ts';
import { pruned } from '../graph/prune.ts';
import { valueBytes } from '../graph/value-bytes.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import { buildTextEncoder, type TextEncoderSize } from '../models/clip/text-encoder.ts';
import type { TextReading } from '../models/families/family.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';

/** Of the values of one run. Sixteen prompts of SD 1.5's text encoder take about half of it, seventy of SDXL's second one ten times as much. */
const RUN_BYTES = 2e9;

/**
 * How many of a step's prompts run together: all, or as many as memory has room for, in runs of about one size.
 * @param bytes of the values of one run
 */
export function promptsTogether(
  { weights, config }: ModelPart<ClipTextConfig>,
  reading: TextReading,
  prompts: number,
  bytes = RUN_BYTES,
): number {
  const size = { batch: 1, tokens: config.maxPositions };
  const own = valueBytes(buildTextEncoder(weights, config, size, reading).graph);
  return Math.ceil(prompts / Math.max(1, Math.ceil((prompts * own) / bytes)));
}

/** Features of prompts: inputs and output of `buildTextEncoder`. */
export function buildTextFeatures(
  { weights, config }: ModelPart<ClipTextConfig>,
  size: TextEncoderSize,
  ranks: ReadonlyMap<string, number>,
  reading: TextReading,
): Graph {
  return buildTextEncoder(weights, config, size, { loraRanks: ranks, ...reading }).graph;
}

/**
 * Gradients of embeddings and factors.
 * Inputs: those of `buildTextEncoder`, `d_last_hidden_state` [B, T, D], and where it pools `d_text_embeds` [B, P]. Outputs: `gradientOutput` of every factor
 * and, where `embeddingGradient`, of `token_embeddings`; a shared prefix holds no trained embedding.
 */
export function buildTextGradients(
  { weights, config }: ModelPart<ClipTextConfig>,
  size: TextEncoderSize,
  ranks: ReadonlyMap<string, number>,
  reading: TextReading,
  embeddingGradient: boolean,
): Graph {
  const { graph } = buildTextEncoder(weights, config, size, { loraRanks: ranks, ...reading });
  const g = GraphBuilder.continuing({ ...graph, outputs: new Map() });
  const seeds = new Map(
    [...graph.outputs].map(([name, value]) => [value, g.input(`d_${name}`, 'float32', value.shape)]),
  );
  const input = new Map(graph.inputs.map((value) => [value.name, value]));
  const wanted = [...ranks.keys()]
    .flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)])
    .concat(embeddingGradient ? ['token_embeddings'] : [])
    .map((name) => input.get(name)!);
  writeGradients(g, gradients(g, seeds, wanted));
  return pruned(g.finish());
}
