/** A layer of CLIP's own over the embedding and the states so far: `h_i = layer([e, h_1, …, h_{i−1}])_i`, causal. */
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { concat } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { causalMask } from '../../models/clip/shared-prefix.ts';
import { attention, clipLayer } from '../../models/clip/transformer.ts';
import type { DeprojectorModel } from './model.ts';

export const transformer: DeprojectorModel = {
  title: 'a causal CLIP layer',
  hasVicinity: false,
  all: (net, shape, embedding, before) => {
    const { g } = net;
    const rows = concat(g, [embedding, before], 1);
    const mask = g.constant(causalMask(rows.shape[1]!));
    return net.within('layer', () => clipLayer(net, rows, shape, attention(g, shape.numHeads, mask)));
  },
  begin: (net, shape, embedding) => {
    const { g } = net;
    // Keys and values of the rows so far.
    let kept: { readonly k: Value; readonly v: Value } | null = null;
    return (before) =>
      net.within('layer', () =>
        clipLayer(net, before ?? embedding, shape, ({ q, k, v }) => {
          kept = kept === null ? { k, v } : { k: concat(g, [kept.k, k], 1), v: concat(g, [kept.v, v], 1) };
          return multiHeadAttention(g, { q, ...kept, bias: null }, shape.numHeads);
        }),
      );
  },
};
