/**
 * Prompts of a batch that begin alike, computed once where they are alike. Attention is causal: a position sees only those
 * before it, so equal beginnings have equal states in every layer, and the result is exact. Rows of the beginning
 * stand before the other rows of all prompts, [1, P + B·(T − P), D]; what treats each position by itself takes them as they
 * are, and attention gives every prompt the beginning's keys and values.
 */
import type { GraphBuilder } from '../../graph/builder.ts';
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { concat, expand, reshape, split } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import type { Attend } from './transformer.ts';

export interface SharedPrefixSize {
  /** Number of prompts, B. */
  readonly batch: number;
  /** Positions of a prompt, T. */
  readonly tokens: number;
  /** Positions that all prompts share, 0 < P < T. */
  readonly sharedPrefix: number;
}

/** [1, P, D] and [B, T − P, D] → [1, P + B·(T − P), D] */
export function joinRows(g: GraphBuilder, prefix: Value, rest: Value): Value {
  const [batch, rows, width] = rest.shape as [number, number, number];
  return concat(g, [prefix, reshape(g, rest, [1, batch * rows, width])], 1);
}

/** [1, P + B·(T − P), D] → [1, P, D] and [B, T − P, D] */
function partsOf(g: GraphBuilder, rows: Value, size: SharedPrefixSize): [prefix: Value, rest: Value] {
  const { batch, tokens, sharedPrefix } = size;
  const own = tokens - sharedPrefix;
  const [prefix, rest] = split(g, rows, [sharedPrefix, batch * own], 1) as [Value, Value];
  return [prefix, reshape(g, rest, [batch, own, rows.shape[2]!])];
}

/** Every prompt whole: [1, P + B·(T − P), D] → [B, T, D] */
export function wholePrompts(g: GraphBuilder, rows: Value, size: SharedPrefixSize): Value {
  const [prefix, rest] = partsOf(g, rows, size);
  return concat(g, [expand(g, prefix, [size.batch, size.sharedPrefix, rows.shape[2]!]), rest], 1);
}

/** Causal attention over joined rows. */
export function sharedPrefixAttention(g: GraphBuilder, numHeads: number, size: SharedPrefixSize): Attend {
  const { tokens, sharedPrefix } = size;
  const prefixMask = g.constant(causalMask(sharedPrefix));
  const restMask = g.constant(causalMask(tokens, sharedPrefix));
  return ({ q, k, v }) => {
    const [[qPrefix, qRest], [kPrefix], [vPrefix]] = [q, k, v].map((x) => partsOf(g, x, size)) as [
      [Value, Value],
      [Value, Value],
      [Value, Value],
    ];
    const prefix = { q: qPrefix, k: kPrefix, v: vPrefix, bias: prefixMask };
    const rest = { q: qRest, k: wholePrompts(g, k, size), v: wholePrompts(g, v, size), bias: restMask };
    return joinRows(g, multiHeadAttention(g, prefix, numHeads), multiHeadAttention(g, rest, numHeads));
  };
}

/** Added to scores so that no position sees later ones, for queries from `first` on: [1, 1, tokens − first, tokens]. */
export function causalMask(tokens: number, first = 0): Tensor {
  const mask = float32([1, 1, tokens - first, tokens]);
  for (let i = first; i < tokens; i++)
    mask.data.fill(-1e30, (i - first) * tokens + i + 1, (i - first + 1) * tokens);
  return mask;
}
