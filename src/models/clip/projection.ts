/** From a tower's pooled state to the space that pictures and texts share. */
import type { Value } from '../../graph/value.ts';
import { linear } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';

/** One linear map without bias, [B, D] → [B, projectionDim]. */
export function projection(
  net: NetworkBuilder,
  pooled: Value,
  name: 'visual_projection' | 'text_projection',
  projectionDim: number,
): Value {
  return linear(net, pooled, name, { out: projectionDim, bias: false });
}

/** The text projection alone. Input: `pooled` [B, D]. Output: `text_embeds` [B, projectionDim], not normalised. */
export function buildTextProjection(
  weights: WeightSource,
  { batch, width, projectionDim }: { batch: number; width: number; projectionDim: number },
): Network {
  const net = new NetworkBuilder(weights);
  const pooled = net.g.input('pooled', 'float32', [batch, width]);
  net.g.output('text_embeds', projection(net, pooled, 'text_projection', projectionDim));
  return net.finish();
}
