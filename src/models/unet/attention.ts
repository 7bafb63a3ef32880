/** Attention as the UNet's transformers use it: a variable part, given to the network that is being written. */
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import type { Value } from '../../graph/value.ts';
import { linear } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';
import type { AttentionPlace } from './structure.ts';

/** The two attentions of a transformer's block, written in the scope of `attn1` and `attn2`. Values are [B, N, C]. */
export interface Attentions {
  readonly self: (net: NetworkBuilder, x: Value, place: AttentionPlace) => Value;
  readonly cross: (net: NetworkBuilder, x: Value, place: AttentionPlace) => Value;
}

/** Self- or cross-attention over tokens: x [B, N, C], context [B, T, D] → [B, N, C]. */
export function attention(net: NetworkBuilder, x: Value, context: Value, numHeads: number): Value {
  const out = x.shape[2]!;
  const q = linear(net, x, 'to_q', { out, bias: false });
  const k = linear(net, context, 'to_k', { out, bias: false });
  const v = linear(net, context, 'to_v', { out, bias: false });
  return linear(net, multiHeadAttention(net.g, { q, k, v }, numHeads), 'to_out.0', { out });
}

/** The usual attentions: one text for all rows. @param contextOf text features [B, T, D] of the index-th cross-attention */
export function contextAttentions(contextOf: (index: number) => Value): Attentions {
  return {
    self: (net, x, { numHeads }) => attention(net, x, x, numHeads),
    cross: (net, x, { numHeads, index }) => attention(net, x, contextOf(index), numHeads),
  };
}
