/** Multi-head attention as one operator: the runtime never holds all scores at once. */
import { ShapeError } from '../../errors.ts';
import type { NodeWriter } from '../node-writer.ts';
import type { Value } from '../value.ts';
import { reshape, transpose } from './movement.ts';
import { broadcastShapes, expectRank, expectShape, required, type ShapeRules, sameDtype } from './rule.ts';

export const attentionShapes: ShapeRules<'MultiHeadAttention'> = {
  MultiHeadAttention: (inputs, { numHeads }) => {
    const [q, k, v] = [required(inputs, 0), required(inputs, 1), required(inputs, 2)];
    for (const [spec, what] of [
      [q, 'query'],
      [k, 'key'],
      [v, 'value'],
    ] as const) {
      expectRank(spec, 3, what);
      if (spec.shape[2]! % numHeads !== 0) {
        throw new ShapeError(`${what}: ${spec.shape[2]} features do not divide into ${numHeads} heads`);
      }
    }
    const [batch, queries, width] = q.shape as [number, number, number];
    const keys = k.shape[1]!;
    expectShape(k, [batch, keys, width], 'key');
    expectShape(v, [batch, keys, v.shape[2]!], 'value');
    const bias = inputs[3];
    if (bias) {
      const scores = [batch, numHeads, queries, keys];
      expectRank(bias, 4, 'bias');
      expectShape({ dtype: bias.dtype, shape: broadcastShapes(bias.shape, scores) }, scores, 'bias');
      expectShape(bias, [bias.shape[0]!, bias.shape[1]!, queries, keys], 'bias');
    }
    return [{ dtype: sameDtype([q, k, v, bias ?? null]), shape: [batch, queries, v.shape[2]!] }];
  },
};

/** softmax(q kᵀ / √d + bias) v per head; heads lie side by side in the last axis. */
export function multiHeadAttention(
  g: NodeWriter,
  { q, k, v, bias = null }: { q: Value; k: Value; v: Value; bias?: Value | null },
  numHeads: number,
): Value {
  return g.node('MultiHeadAttention', [q, k, v, bias], { numHeads })[0]!;
}

/** [B, N, heads·d] → [B, heads, N, d] */
export function splitHeads(g: NodeWriter, x: Value, numHeads: number): Value {
  const [batch, rows, width] = x.shape as [number, number, number];
  return transpose(g, reshape(g, x, [batch, rows, numHeads, width / numHeads]), [0, 2, 1, 3]);
}

/** [B, heads, N, d] → [B, N, heads·d] */
export function joinHeads(g: NodeWriter, x: Value): Value {
  const [batch, numHeads, rows, width] = x.shape as [number, number, number, number];
  return reshape(g, transpose(g, x, [0, 2, 1, 3]), [batch, rows, numHeads * width]);
}
