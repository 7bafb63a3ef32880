/**
 * Timesteps of a picture that several texts share, in UNets that read each text's pooled vector too:
 *
 *   y_n = Σ_s w_s(n) · (W t_s + b),   t_s = SiLU(time + added(pooled_s, sizes))
 *
 * with the sources and weights of region-attention.ts. A region is drawn by its own vector, the surroundings by the context's. Factors
 * that count in parts of the picture (factor-places.ts) read Σ_s w_s(n) t_s.
 */
import type { GraphBuilder } from '../../graph/builder.ts';
import { add, mul } from '../../graph/ops/elementwise.ts';
import { matmul } from '../../graph/ops/matmul.ts';
import { reshape, transpose } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { linear, toImage } from '../layers.ts';
import { levelInputs } from './region-attention.ts';
import type { TimeWriter } from './time-embedding.ts';

/**
 * @param time   of the sources, [B, S, 4 · C₀]
 * @param levels size of the latents at each level
 */
export function sharedTime(
  time: Value,
  levels: readonly { readonly height: number; readonly width: number }[],
): TimeWriter {
  const [batch, sources, n] = time.shape as [number, number, number];
  const inputs = new Map<number, Value>();
  const sharesOf = (g: GraphBuilder, level: number, rows: number): Value => {
    const value = inputs.get(level) ?? g.input(levelInputs.shares(level), 'float32', [sources, rows]);
    inputs.set(level, value);
    return value;
  };
  return (net, name, { out, height, width }) => {
    const { g } = net;
    const level = levels.findIndex((size) => size.height === height && size.width === width);
    const shares = sharesOf(g, level, height * width);
    /** Of the sources, [B, S, k] → of the rows, [B, k, N]. */
    const spread = (own: Value): Value => matmul(g, transpose(g, own, [0, 2, 1]), shares);
    const weights = net.factorWeights(name, height * width);
    if (weights === null)
      return reshape(g, spread(linear(net, time, name, { out })), [batch, out, height, width]);
    const { down, up } = net.lora(name, out, n)!;
    const product = matmul(g, time, net.weight(`${name}.weight`, [out, n]), { transB: true });
    const plain = spread(add(g, product, net.weight(`${name}.bias`, [out])));
    const reduced = transpose(g, spread(matmul(g, time, down, { transB: true })), [0, 2, 1]);
    const change = matmul(g, mul(g, reduced, weights), up, { transB: true });
    return add(g, reshape(g, plain, [batch, out, height, width]), toImage(net, change, height, width));
  };
}
