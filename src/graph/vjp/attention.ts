/**
 * Gradient of multi-head attention. The probabilities are computed anew, some heads or some queries of one head at a time:
 * nothing of size N × M is kept, and what exists at once stays in the processor's caches, for which memory would be too slow.
 */
import { sizeOf } from '../../tensor/tensor.ts';
import type { GraphBuilder } from '../builder.ts';
import { splitHeads } from '../ops/attention.ts';
import { add, mul } from '../ops/elementwise.ts';
import { matmul } from '../ops/matmul.ts';
import { concat, expand, reshape, slice, transpose } from '../ops/movement.ts';
import { softmax } from '../ops/normalization.ts';
import { reduceSum } from '../ops/reduction.ts';
import type { Value } from '../value.ts';
import { number, only, scaled, sumTo, type Vjp, type Vjps } from './rule.ts';

/** Scores computed at once: 512 of 4096 queries of one head, 8 MB. */
const SCORES_AT_ONCE = 2 ** 21;

/** Gradients of some queries of some heads; null where none is wanted. */
interface Part {
  /** [B, heads, queries, d] */
  readonly dQ: Value | null;
  /** [B, heads, d, M]: transposed, so that the scores' axis of M is the long one of the product. */
  readonly dK: Value | null;
  /** [B, heads, e, M] */
  readonly dV: Value | null;
}

/**
 * The rule, for P = softmax(α Q Kᵀ + bias), O = P V, α = 1/√d:
 *
 *   dV = Pᵀ dO;  dP = dO Vᵀ;  dS = P ∘ (dP − rowsum(dO ∘ O));  dQ = α dS K;  dK = α dSᵀ Q;  dbias = dS
 *
 * rowsum(dO ∘ O) = rowsum(dP ∘ P), so the probabilities need no second pass; and as one more column of dO beside a column of
 * ones of V it is taken away by the product itself.
 * @param scoresAtOnce heads are taken together as long as all their scores are no more than this, and a head's queries are
 *   taken apart if its own are more
 */
export function attentionVjp(scoresAtOnce: number): Vjp<'MultiHeadAttention'> {
  return (g, { inputs, outputs: [out], attributes: { numHeads } }, dys, needs) => {
    const [q, k, v, bias] = inputs as [Value, Value, Value, Value | null];
    const split = (x: Value): Value => splitHeads(g, x, numHeads);
    const [Q, K, V, O, dO] = [split(q), split(k), split(v), split(out!), split(only(dys))];
    const alpha = 1 / Math.sqrt(Q.shape[3]!);
    const needsScores = needs[0] || needs[1] || needs[3];
    const rowTerms = needsScores ? scaled(g, reduceSum(g, mul(g, dO, O), [3]), -1) : null;
    const dOandRow = rowTerms === null ? null : concat(g, [dO, rowTerms], 3);
    const VandOne = needsScores
      ? concat(g, [V, expand(g, number(g, V, 1), [...V.shape.slice(0, 3), 1])], 3)
      : null;
    const [batch, queries, keys] = [q.shape[0]!, q.shape[1]!, k.shape[1]!];
    // What depends on the bias has all scores in one value anyway.
    const heads = bias ? numHeads : Math.max(1, Math.floor(scoresAtOnce / (batch * queries * keys)));
    const rows = bias ? queries : Math.max(1, Math.floor(scoresAtOnce / (batch * keys)));
    let dBias: Value | null = null;
    const groups: Part[] = [];
    for (const [first, end] of stretches(numHeads, heads)) {
      const ofHeads = (x: Value): Value => stretch(g, x, 1, first, end);
      const [ownK, ownV] = [ofHeads(K), VandOne && ofHeads(VandOne)];
      const parts = stretches(queries, rows).map(([from, to]): Part => {
        const ofRows = (x: Value): Value => stretch(g, ofHeads(x), 2, from, to);
        const ownQ = ofRows(Q);
        const scores = matmul(g, ownQ, ownK, { transB: true, alpha });
        const P = softmax(g, bias ? add(g, scores, bias) : scores);
        const dV = needs[2] ? matmul(g, ofRows(dO), P, { transA: true }) : null;
        if (!needsScores) return { dQ: null, dK: null, dV };
        const dS = mul(g, P, matmul(g, ofRows(dOandRow!), ownV!, { transB: true }));
        if (needs[3]) dBias = sumTo(g, dS, bias!.shape);
        return {
          dQ: needs[0] ? matmul(g, dS, ownK, { alpha }) : null,
          dK: needs[1] ? matmul(g, ownQ, dS, { transA: true, alpha }) : null,
          dV,
        };
      });
      groups.push(parts.length === 1 ? parts[0]! : joinRows(g, parts));
    }
    const { dQ, dK, dV } = groups.length === 1 ? groups[0]! : joinHeadGroups(g, groups);
    const joined = (d: Value | null, perm: readonly number[], like: Value): Value | null =>
      d === null ? null : reshape(g, transpose(g, d, perm), like.shape);
    return [joined(dQ, [0, 2, 1, 3], q), joined(dK, [0, 3, 1, 2], k), joined(dV, [0, 3, 1, 2], v), dBias];
  };
}

/** [0, length) in stretches of at most `step`. */
function stretches(length: number, step: number): [begin: number, end: number][] {
  return Array.from({ length: Math.ceil(length / step) }, (_, i) => [
    i * step,
    Math.min(length, (i + 1) * step),
  ]);
}

/** [begin, end) of an axis; the value itself if that is all of it. */
const stretch = (g: GraphBuilder, x: Value, axis: number, begin: number, end: number): Value =>
  end - begin === x.shape[axis] ? x : slice(g, x, axis, begin, end);

/** Gradients of all queries from those of some each: queries side by side, keys and values summed. */
function joinRows(g: GraphBuilder, parts: readonly Part[]): Part {
  const bundled = bundles(g, parts);
  const all = (which: keyof Part): Value[] | null =>
    parts[0]![which] === null ? null : bundled.map((part) => part[which]!);
  const sum = (values: Value[] | null): Value | null => values?.reduce((a, b) => add(g, a, b)) ?? null;
  const dQ = all('dQ');
  return { dQ: dQ && concat(g, dQ, 2), dK: sum(all('dK')), dV: sum(all('dV')) };
}

/** Gradients of all heads from those of groups of heads. */
function joinHeadGroups(g: GraphBuilder, groups: readonly Part[]): Part {
  const bundled = bundles(g, groups);
  const all = (which: keyof Part): Value | null =>
    groups[0]![which] === null
      ? null
      : concat(
          g,
          bundled.map((part) => part[which]!),
          1,
        );
  return { dQ: all('dQ'), dK: all('dK'), dV: all('dV') };
}

/**
 * The same values, each part's put into one before any is taken from it: the runtime, which walks back from results, then
 * finishes one part before it begins the next.
 */
function bundles(g: GraphBuilder, parts: readonly Part[]): Part[] {
  return parts.map((part) => {
    const values = Object.entries(part).filter((entry): entry is [keyof Part, Value] => entry[1] !== null);
    if (values.length === 1) return part;
    const flat = values.map(([, { shape }], i) =>
      reshape(g, values[i]![1], [shape[0]!, shape[1]!, sizeOf(shape.slice(2))]),
    );
    const bundle = concat(g, flat, 2);
    let start = 0;
    const taken = values.map(([which, { shape }]): [keyof Part, Value] => {
      const size = sizeOf(shape.slice(2));
      start += size;
      return [which, reshape(g, slice(g, bundle, 2, start - size, start), shape)];
    });
    return { ...part, ...Object.fromEntries(taken) };
  });
}

export const attentionVjps: Vjps<'MultiHeadAttention'> = {
  MultiHeadAttention: attentionVjp(SCORES_AT_ONCE),
};
