/** The UNet's half of a training step as one graph: prediction, loss, and the gradients that were asked for. */
import { gradients } from '../graph/autodiff.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { writeGradients } from '../graph/gradient-outputs.ts';
import type { Graph, GraphNode } from '../graph/graph.ts';
import { add, mul, sub } from '../graph/ops/elementwise.ts';
import { reduceSum } from '../graph/ops/reduction.ts';
import { pruned } from '../graph/prune.ts';
import type { Value } from '../graph/value.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import { buildUnet, type UnetSize } from '../models/unet/unet.ts';
import { float32 } from '../tensor/tensor.ts';
import { type AttentionMaps, attentionTerm, trainingAttentions } from './attention-regularization.ts';

export interface UnetGraphOptions {
  /** Layers that are trained, with the rank of their factors. */
  readonly ranks: ReadonlyMap<string, number>;
  /** Text features per cross-attention layer, or one for all. */
  readonly layerwise: boolean;
  /** Whether the text features' gradient is wanted, for what makes them is trained. */
  readonly contextGradient: boolean;
  /** Attention regularisation; null leaves it out. */
  readonly attention: { readonly fullIdentity: boolean } | null;
  /** Custom Diffusion: the first text token's keys and values get no gradient. */
  readonly detachFirstToken: boolean;
  /** Compute the values inside resnets and transformers a second time instead of keeping them. */
  readonly checkpointBlocks: boolean;
}

/**
 * Write the graph.
 *
 * Inputs: those of `buildUnet`; `target` [B, C, h, w] and `loss_weight` [B, 1, h, w] (see loss-weights.ts); with
 * attention regularisation `word_positions` [B, 1, T, 2], `attention_weight` [1], and masks per level.
 * Outputs: `loss`, `errors` [B] (the weighted squares of each row, without regularisation), `noise_pred`, with
 * attention regularisation `attention_maps.k`, and `gradientOutput` of every factor and of the text
 * features, pooled ones too.
 */
export function buildUnetStep(
  { weights, config }: ModelPart<UnetConfig>,
  size: UnetSize,
  options: UnetGraphOptions,
): Graph {
  const { ranks, layerwise, contextGradient, attention, detachFirstToken, checkpointBlocks } = options;
  const maps: AttentionMaps = new Map();
  let positions: Value | null = null;
  const network = buildUnet(weights, config, size, {
    loraRanks: ranks,
    layerwiseContext: layerwise,
    ...(attention === null && !detachFirstToken
      ? {}
      : {
          attentions: (contextOf) => ({
            self: trainingAttentions(contextOf, {}).self,
            cross: (net, x, place) => {
              if (attention !== null) {
                positions ??= net.g.input('word_positions', 'float32', [size.batch, 1, size.tokens, 2]);
              }
              return trainingAttentions(contextOf, {
                detachFirstToken,
                ...(positions === null ? {} : { maps: { into: maps, positions } }),
              }).cross(net, x, place);
            },
          }),
        }),
  });
  const g = GraphBuilder.continuing(network.graph);
  const input = new Map(network.graph.inputs.map((value) => [value.name, value]));
  const predicted = network.graph.outputs.get('noise_pred')!;
  const [batch, , height, width] = predicted.shape as [number, number, number, number];
  const target = g.input('target', 'float32', predicted.shape);
  const weight = g.input('loss_weight', 'float32', [batch, 1, height, width]);
  const difference = sub(g, predicted, target);
  const errors = reduceSum(g, mul(g, mul(g, difference, difference), weight), [1, 2, 3], false);
  g.output('errors', errors);
  let loss = reduceSum(g, errors, [0]);
  if (attention !== null) {
    const strength = g.input('attention_weight', 'float32', [1]);
    loss = add(g, loss, mul(g, attentionTerm(g, maps, attention.fullIdentity), strength));
  }
  g.output('loss', loss);

  const wanted = [...ranks.keys()]
    .flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)])
    .concat(contextGradient ? ['encoder_hidden_states', 'text_embeds'] : [])
    .flatMap((name) => input.get(name) ?? []);
  const seed = g.constant(float32([1], [1]));
  const found = gradients(g, new Map([[loss, seed]]), wanted, checkpointBlocks ? { blockOf } : {});
  writeGradients(g, found);
  return pruned(g.finish());
}

/** `down_blocks.1/resnets.0/…` → `down_blocks.1/resnets.0`; null outside resnets and transformers. */
export function blockOf({ name }: GraphNode): string | null {
  return /^[a-z_]+(\.\d+)?\/(resnets|attentions)\.\d+(?=\/)/.exec(name)?.[0] ?? null;
}
