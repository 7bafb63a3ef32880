/** Gradient of multi-head attention. The probabilities are computed anew: nothing of size N × M is kept. */
import { joinHeads, splitHeads } from '../ops/attention.ts';
import { add, mul, sub } from '../ops/elementwise.ts';
import { matmul } from '../ops/matmul.ts';
import { softmax } from '../ops/normalization.ts';
import { reduceSum } from '../ops/reduction.ts';
import type { Value } from '../value.ts';
import { only, sumTo, type Vjps } from './rule.ts';

export const attentionVjps: Vjps<'MultiHeadAttention'> = {
  // P = softmax(α Q Kᵀ + bias), O = P V, α = 1/√d:
  //   dV = Pᵀ dO;  dP = dO Vᵀ;  dS = P ∘ (dP − rowsum(dO ∘ O));  dQ = α dS K;  dK = α dSᵀ Q;  dbias = dS
  // rowsum(dO ∘ O) = rowsum(dP ∘ P), so the probabilities need no second pass.
  MultiHeadAttention: (g, { inputs, outputs: [out], attributes: { numHeads } }, dys, needs) => {
    const [q, k, v, bias] = inputs as [Value, Value, Value, Value | null];
    const split = (x: Value): Value => splitHeads(g, x, numHeads);
    const [Q, K, V, O, dO] = [split(q), split(k), split(v), split(out!), split(only(dys))];
    const alpha = 1 / Math.sqrt(Q.shape[3]!);
    const scores = matmul(g, Q, K, { transB: true, alpha });
    const probabilities = softmax(g, bias ? add(g, scores, bias) : scores);
    const dv = needs[2] ? joinHeads(g, matmul(g, probabilities, dO, { transA: true })) : null;
    if (!needs[0] && !needs[1] && !needs[3]) return [null, null, dv, null];
    const rowTerm = reduceSum(g, mul(g, dO, O), [3]);
    const dScores = mul(g, probabilities, sub(g, matmul(g, dO, V, { transB: true }), rowTerm));
    return [
      needs[0] ? joinHeads(g, matmul(g, dScores, K, { alpha })) : null,
      needs[1] ? joinHeads(g, matmul(g, dScores, Q, { transA: true, alpha })) : null,
      dv,
      needs[3] ? sumTo(g, dScores, bias!.shape) : null,
    ];
  },
};
