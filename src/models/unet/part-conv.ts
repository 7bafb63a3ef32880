/**
 * Convolution that does not read over the borders of parts. Where regions are kept apart, a cell at the border of one must not see
 * its neighbours in another: beyond its part there is nothing, as beyond the picture. What a plain convolution reads there is taken
 * away again, y_n − Σ_k W_k x_k over the neighbours k of n in other parts. Borders are few cells, so it costs little.
 */
import type { GraphBuilder } from '../../graph/builder.ts';
import { conv } from '../../graph/ops/convolution.ts';
import { mul, sub } from '../../graph/ops/elementwise.ts';
import { gather, reshape } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import type { ConvOptions } from '../network.ts';

/** Side of the kernels that read neighbours. */
export const PART_KERNEL = 3;

/** The cells of an output that read over borders: S seams, the first of which reads nothing. */
export interface Seams {
  /** int64 [3, 3·S]: the cell of the input under each tap, the neighbourhoods of all seams side by side. */
  readonly taps: Value;
  /** [3, 3·S]: 1 where that cell lies in another part, else 0. */
  readonly foreign: Value;
  /** int64 [N]: the seam of every cell of the output; 0: it reads its own part alone. */
  readonly places: Value;
}

/** @param x [B, C, H, W], @param weight [M, C, 3, 3] */
export function partConv(
  g: GraphBuilder,
  x: Value,
  weight: Value,
  bias: Value | null,
  options: ConvOptions,
  { taps, foreign, places }: Seams,
): Value {
  const y = conv(g, x, weight, bias, options);
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  const neighbours = gather(g, reshape(g, x, [batch, channels, height * width]), taps, 2);
  // A picture of neighbourhoods, each under one place of the kernel.
  const read = conv(g, mul(g, neighbours, foreign), weight, null, { stride: PART_KERNEL });
  const perSeam = reshape(g, read, [batch, weight.shape[0]!, taps.shape[1]! / PART_KERNEL]);
  return sub(g, y, reshape(g, gather(g, perSeam, places, 2), y.shape));
}
