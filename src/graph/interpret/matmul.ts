import { sizeOf } from '../../tensor/tensor.ts';
import { broadcastOffset, dense, type Evaluators, forEachIndex, stridesOf } from './evaluator.ts';

/** Matrix products, three loops. */
export const evaluateMatmul: Evaluators<'FusedMatMul'> = {
  FusedMatMul: ([a, b], { attributes: { transA, transB, alpha }, outputs }) => {
    // Of what is there: axes of the graph's own shape may be free.
    const [rows, cols] = [a!.shape.at(transA ? -1 : -2)!, b!.shape.at(transB ? -2 : -1)!];
    const out = dense([...outputs[0]!.shape.slice(0, -2), rows, cols]);
    const inner = a!.shape.at(transA ? -2 : -1)!;
    const [strideA, strideB] = [stridesOf(a!.shape), stridesOf(b!.shape)];
    const [aRow, aInner] = transA ? [strideA.at(-1)!, strideA.at(-2)!] : [strideA.at(-2)!, strideA.at(-1)!];
    const [bInner, bCol] = transB ? [strideB.at(-1)!, strideB.at(-2)!] : [strideB.at(-2)!, strideB.at(-1)!];
    const [leadA, leadB] = [a!.shape.slice(0, -2), b!.shape.slice(0, -2)];
    const lead = out.shape.slice(0, -2);
    if (sizeOf(out.shape) === 0) return [out];
    forEachIndex(lead, (batch, index) => {
      const baseA = broadcastOffset(index, leadA, strideA);
      const baseB = broadcastOffset(index, leadB, strideB);
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < cols; j++) {
          let sum = 0;
          for (let k = 0; k < inner; k++) {
            sum += a!.data[baseA + i * aRow + k * aInner]! * b!.data[baseB + k * bInner + j * bCol]!;
          }
          out.data[(batch * rows + i) * cols + j] = alpha * sum;
        }
      }
    });
    return [out];
  },
};
