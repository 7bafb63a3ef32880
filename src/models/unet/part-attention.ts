/** Self-attention in parts of a picture: rows of a part attend to that part, those of the background to all. Values are [B, N, C]. */
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { concat, gather, slice } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { linear } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';

/** The rows of a picture, part by part. */
export interface PartOrder {
  /** Rows of each part; the background is the last. */
  readonly sizes: readonly number[];
  /** int64 [N]: rows of the picture, part by part. */
  readonly rows: Value;
  /** int64 [N]: where in that order each row stands. */
  readonly places: Value;
}

/** Exact, and cheaper than attention over all rows. */
export function partAttention(
  net: NetworkBuilder,
  x: Value,
  numHeads: number,
  { sizes, rows, places }: PartOrder,
): Value {
  const { g } = net;
  const [, count, out] = x.shape as [number, number, number];
  const project = (name: string): Value => gather(g, linear(net, x, name, { out, bias: false }), rows, 1);
  const [q, k, v] = [project('to_q'), project('to_k'), project('to_v')];
  let start = 0;
  const attended: Value[] = [];
  sizes.forEach((size, part) => {
    const [from, to] = [start, start + size];
    start = to;
    if (size === 0) return;
    const background = part === sizes.length - 1;
    const rowsOf = (all: Value): Value => (size === count ? all : slice(g, all, 1, from, to));
    attended.push(
      multiHeadAttention(
        g,
        { q: rowsOf(q), k: background ? k : rowsOf(k), v: background ? v : rowsOf(v) },
        numHeads,
      ),
    );
  });
  return linear(net, gather(g, concat(g, attended, 1), places, 1), 'to_out.0', { out });
}
