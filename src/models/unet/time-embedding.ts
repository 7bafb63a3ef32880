/** The timestep as a vector. Source: diffusers, models/embeddings.py, get_timestep_embedding and TimestepEmbedding. */
import { cos, mul, silu, sin } from '../../graph/ops/elementwise.ts';
import { concat } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { float32 } from '../../tensor/tensor.ts';
import { linear } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';
import type { UnetConfig } from './config.ts';

/** timestep [B, 1] → sinusoids [B, C]: cosines first where the config flips them. */
export function timestepSinusoids(net: NetworkBuilder, timestep: Value, config: UnetConfig): Value {
  const half = config.blocks[0]!.channels / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) =>
    Math.exp((-Math.log(10_000) * i) / (half - config.frequencyShift)),
  );
  const angle = mul(net.g, timestep, net.g.constant(float32([1, half], frequencies)));
  const parts = [cos(net.g, angle), sin(net.g, angle)];
  return concat(net.g, config.flipSinToCos ? parts : parts.reverse(), 1);
}

/** timestep [B, 1] → embedding [B, 4 · C₀]. */
export function timeEmbedding(net: NetworkBuilder, timestep: Value, config: UnetConfig): Value {
  const out = 4 * config.blocks[0]!.channels;
  return net.within('time_embedding', () => {
    const hidden = linear(net, timestepSinusoids(net, timestep, config), 'linear_1', { out });
    return linear(net, silu(net.g, hidden), 'linear_2', { out });
  });
}
