/** Self-attention in parts of a picture: rows of a part attend to that part, those of the background to all. Values are [B, N, C]. */
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { mul } from '../../graph/ops/elementwise.ts';
import { concat, expand, gather, reshape, slice } from '../../graph/ops/movement.ts';
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

/** Of parts whose rows the network was written for; cheaper than attention over all rows. */
export function cutAttention(
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

/** How far scores of the own part are lifted above others', whose share is then e^−80 of theirs. */
const LIFT = 80;

/**
 * Of parts that are fed: the scores of a row and those of its own part are lifted, by numbers that stand beside each head's queries and
 * keys, q' · k' = q · k + lift · [same part]. The background's queries have none, so it sees all alike.
 * @param flags [1, N, 1, P]: 1 where a row belongs to a part, without the background
 */
export function fedAttention(net: NetworkBuilder, x: Value, numHeads: number, flags: Value): Value {
  const { g } = net;
  const [batch, count, out] = x.shape as [number, number, number];
  const width = out / numHeads;
  const parts = flags.shape[3]!;
  // The runtime divides scores by the square root of what a head has.
  const grown = Math.sqrt((width + parts) / width);
  const mark = Math.sqrt(LIFT * Math.sqrt(width + parts));
  const marks = expand(g, mul(g, flags, g.scalar(mark)), [batch, count, numHeads, parts]);
  const marked = (own: Value): Value => {
    const heads = reshape(g, own, [batch, count, numHeads, width]);
    return reshape(g, concat(g, [heads, marks], 3), [batch, count, numHeads * (width + parts)]);
  };
  const project = (name: string): Value => linear(net, x, name, { out, bias: false });
  const q = marked(mul(g, project('to_q'), g.scalar(grown)));
  const y = multiHeadAttention(g, { q, k: marked(project('to_k')), v: project('to_v') }, numHeads);
  return linear(net, y, 'to_out.0', { out });
}
