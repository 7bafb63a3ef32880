/**
 * Group norm with statistics per part of the picture. Where regions are kept apart, an object in one must not weigh on
 * another's normalisation: with global statistics, the strongest object takes all others' contrast.
 */
import type { GraphBuilder } from '../../graph/builder.ts';
import { add, div, mul, sqrt, sub } from '../../graph/ops/elementwise.ts';
import { matmul } from '../../graph/ops/matmul.ts';
import { reshape } from '../../graph/ops/movement.ts';
import { reduceSum } from '../../graph/ops/reduction.ts';
import type { Value } from '../../graph/value.ts';

/** Which rows a part's statistics are taken from, and which rows they are applied to; both [N, P], 0 or 1. */
export interface PartMatrices {
  readonly members: Value;
  readonly owners: Value;
}

/**
 * y = (x − mean_p) / √(variance_p + epsilon) · weight + bias for rows n owned by part p, statistics over the part's
 * members and the channels of a group.
 * @param x [B, C, H, W]
 */
export function partGroupNorm(
  g: GraphBuilder,
  x: Value,
  weight: Value,
  bias: Value,
  { groups, epsilon }: { readonly groups: number; readonly epsilon: number },
  { members, owners }: PartMatrices,
): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  const [rows, perGroup] = [height * width, channels / groups];
  const grouped = reshape(g, x, [batch, groups, perGroup, rows]);
  /** Σ over a part's members and a group's channels, [B, G, 1, P]. */
  const partSum = (values: Value): Value => matmul(g, reduceSum(g, values, [2]), members);
  const count = mul(g, reduceSum(g, members, [0]), g.scalar(perGroup));
  /** From parts to the rows that they own, [B, G, 1, N]. */
  const spread = (perPart: Value): Value => matmul(g, perPart, owners, { transB: true });
  const meanOf = (values: Value): Value => div(g, partSum(values), count);
  const mean = meanOf(grouped);
  const centred = sub(g, grouped, spread(mean));
  // Rows of other parts are centred on their own mean, which the background's variance must not use.
  const variance = sub(g, meanOf(mul(g, grouped, grouped)), mul(g, mean, mean));
  const deviation = sqrt(g, add(g, variance, g.scalar(epsilon)));
  const normal = reshape(g, mul(g, centred, spread(div(g, g.scalar(1), deviation))), x.shape);
  const perChannel = (value: Value): Value => reshape(g, value, [channels, 1, 1]);
  return add(g, mul(g, normal, perChannel(weight)), perChannel(bias));
}
