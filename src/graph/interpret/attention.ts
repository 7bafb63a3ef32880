import { broadcastOffset, dense, type Evaluators, stridesOf } from './evaluator.ts';

/** Attention by its definition, one query at a time. */
export const evaluateAttention: Evaluators<'MultiHeadAttention'> = {
  MultiHeadAttention: ([q, k, v, bias], { attributes: { numHeads }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const [batch, queries, width] = q!.shape as [number, number, number];
    const keys = k!.shape[1]!;
    const valueWidth = v!.shape[2]!;
    const [d, e] = [width / numHeads, valueWidth / numHeads];
    const biasStrides = bias ? stridesOf(bias.shape) : [];
    const scores = new Float64Array(keys);
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < numHeads; h++) {
        for (let i = 0; i < queries; i++) {
          let largest = Number.NEGATIVE_INFINITY;
          for (let j = 0; j < keys; j++) {
            let dot = 0;
            for (let c = 0; c < d; c++) {
              dot +=
                q!.data[(b * queries + i) * width + h * d + c]! *
                k!.data[(b * keys + j) * width + h * d + c]!;
            }
            const offset = bias ? bias.data[broadcastOffset([b, h, i, j], bias.shape, biasStrides)]! : 0;
            scores[j] = dot / Math.sqrt(d) + offset;
            largest = Math.max(largest, scores[j]!);
          }
          let sum = 0;
          for (let j = 0; j < keys; j++) {
            scores[j] = Math.exp(scores[j]! - largest);
            sum += scores[j]!;
          }
          for (let j = 0; j < keys; j++) {
            for (let c = 0; c < e; c++) {
              out.data[(b * queries + i) * valueWidth + h * e + c]! +=
                (scores[j]! / sum) * v!.data[(b * keys + j) * valueWidth + h * e + c]!;
            }
          }
        }
      }
    }
    return [out];
  },
};
