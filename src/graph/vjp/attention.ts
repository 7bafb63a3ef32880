/**
 * Gradient of multi-head attention. The probabilities are computed anew, a few heads at a time where they are large:
 * nothing of size N × M is kept, and little of it exists at once.
 */
import { sizeOf } from '../../tensor/tensor.ts';
import type { GraphBuilder } from '../builder.ts';
import { joinHeads, splitHeads } from '../ops/attention.ts';
import { add, mul, sub } from '../ops/elementwise.ts';
import { matmul } from '../ops/matmul.ts';
import { concat, reshape, slice } from '../ops/movement.ts';
import { softmax } from '../ops/normalization.ts';
import { reduceSum } from '../ops/reduction.ts';
import type { Value } from '../value.ts';
import { only, sumTo, type Vjp, type Vjps } from './rule.ts';

/** Scores computed at once: one head of 4096 tokens among themselves, 64 MB. */
const SCORES_AT_ONCE = 2 ** 24;

/**
 * The rule, for P = softmax(α Q Kᵀ + bias), O = P V, α = 1/√d:
 *
 *   dV = Pᵀ dO;  dP = dO Vᵀ;  dS = P ∘ (dP − rowsum(dO ∘ O));  dQ = α dS K;  dK = α dSᵀ Q;  dbias = dS
 *
 * rowsum(dO ∘ O) = rowsum(dP ∘ P), so the probabilities need no second pass.
 * @param scoresAtOnce heads are taken together as long as all their scores are no more than this
 */
export function attentionVjp(scoresAtOnce: number): Vjp<'MultiHeadAttention'> {
  return (g, { inputs, outputs: [out], attributes: { numHeads } }, dys, needs) => {
    const [q, k, v, bias] = inputs as [Value, Value, Value, Value | null];
    const split = (x: Value): Value => splitHeads(g, x, numHeads);
    const whole = { Q: split(q), K: split(k), V: split(v), O: split(out!), dO: split(only(dys)) };
    const alpha = 1 / Math.sqrt(whole.Q.shape[3]!);
    const [batch, queries, keys] = [q.shape[0]!, q.shape[1]!, k.shape[1]!];
    // What depends on the bias has all heads in one value anyway.
    const heads = bias ? numHeads : Math.max(1, Math.floor(scoresAtOnce / (batch * queries * keys)));
    const groups: (Value | null)[][] = [];
    for (let first = 0; first < numHeads; first += heads) {
      const end = Math.min(numHeads, first + heads);
      const part = (x: Value): Value => (heads >= numHeads ? x : slice(g, x, 1, first, end));
      const [Q, K, V] = [part(whole.Q), part(whole.K), part(whole.V)];
      const [O, dO] = [part(whole.O), part(whole.dO)];
      const scores = matmul(g, Q, K, { transB: true, alpha });
      const probabilities = softmax(g, bias ? add(g, scores, bias) : scores);
      const dV = needs[2] ? matmul(g, probabilities, dO, { transA: true }) : null;
      if (!needs[0] && !needs[1] && !needs[3]) {
        groups.push([null, null, dV, null]);
        continue;
      }
      const rowTerm = reduceSum(g, mul(g, dO, O), [3]);
      const dScores = mul(g, probabilities, sub(g, matmul(g, dO, V, { transB: true }), rowTerm));
      groups.push([
        needs[0] ? matmul(g, dScores, K, { alpha }) : null,
        needs[1] ? matmul(g, dScores, Q, { transA: true, alpha }) : null,
        dV,
        needs[3] ? sumTo(g, dScores, bias!.shape) : null,
      ]);
    }
    const join = (d: Value | null): Value | null => (d === null ? null : joinHeads(g, d));
    const [dQ, dK, dV, dBias] = groups.length === 1 ? groups[0]! : joinGroups(g, groups);
    return [join(dQ!), join(dK!), join(dV!), dBias!];
  };
}

/**
 * Gradients of all heads [B, H, N, d] from those of groups of heads. Each group's are first put into one value: the
 * runtime, which walks back from results, then finishes one group before it begins the next.
 */
function joinGroups(g: GraphBuilder, groups: readonly (readonly (Value | null)[])[]): (Value | null)[] {
  const flat = (d: Value): Value => reshape(g, d, [d.shape[0]!, d.shape[1]!, sizeOf(d.shape.slice(2))]);
  const bundles = groups.map((group) => {
    const parts = group.filter((d) => d !== null).map(flat);
    return parts.length === 1 ? parts[0]! : concat(g, parts, 2);
  });
  const all = concat(g, bundles, 1);
  const [batch, numHeads] = all.shape as [number, number, number];
  let start = 0;
  return groups[0]!.map((d) => {
    if (d === null) return null;
    const [rows, width] = d.shape.slice(2) as [number, number];
    const own = slice(g, all, 2, start, start + rows * width);
    start += rows * width;
    return reshape(g, own, [batch, numHeads, rows, width]);
  });
}

export const attentionVjps: Vjps<'MultiHeadAttention'> = {
  MultiHeadAttention: attentionVjp(SCORES_AT_ONCE),
};
