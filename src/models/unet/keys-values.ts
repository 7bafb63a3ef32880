/**
 * K and V of all cross-attentions as a graph of its own. They depend on the text alone, so a picture needs them
 * once, not once per step.
 */
import { gather } from '../../graph/ops/movement.ts';
import { int64 } from '../../tensor/tensor.ts';
import { linear } from '../layers.ts';
import { type Network, NetworkBuilder, type NetworkOptions, type WeightSource } from '../network.ts';
import type { UnetConfig } from './config.ts';
import { attentionPlaces } from './structure.ts';

/** Does a layer of the UNet belong to this graph (K or V of a cross-attention) rather than to the UNet's? */
export function isKeyOrValue(layerName: string): boolean {
  return /\.attn2\.to_[kv]$/.test(layerName);
}

/** Output [B, T, C]: the keys of a cross-attention (`….attn2`). */
export const keysOutput = (attentionName: string): string => `${attentionName}.keys`;
/** Output [B, T, C]: the values of a cross-attention (`….attn2`). */
export const valuesOutput = (attentionName: string): string => `${attentionName}.values`;

/**
 * Write the graph. Input: `encoder_hidden_states` [B, L, T, D]. Outputs: `keysOutput` and `valuesOutput` of every
 * cross-attention.
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 */
export function buildKeysValues(
  weights: WeightSource,
  config: UnetConfig,
  { batch, tokens }: { readonly batch: number; readonly tokens: number },
  options: NetworkOptions = {},
): Network {
  const net = new NetworkBuilder(weights, options);
  const { g } = net;
  const places = attentionPlaces(config);
  const context = g.input('encoder_hidden_states', 'float32', [
    batch,
    places.length,
    tokens,
    config.crossAttentionDim,
  ]);
  places.forEach(({ path, channels: out, index }) => {
    net.within(`${path}.attn2`, () => {
      const own = gather(g, context, g.constant(int64([], [index])), 1);
      g.output(keysOutput(net.path), linear(net, own, 'to_k', { out, bias: false }));
      g.output(valuesOutput(net.path), linear(net, own, 'to_v', { out, bias: false }));
    });
  });
  return net.finish();
}
