import { sizeOf } from '../../tensor/tensor.ts';
import { dense, type Evaluators } from './evaluator.ts';

/** Mean and 1 / √(variance + epsilon) of data[begin, end). */
function moments(data: Float64Array, begin: number, end: number, epsilon: number): [number, number] {
  let mean = 0;
  for (let i = begin; i < end; i++) mean += data[i]!;
  mean /= end - begin;
  let variance = 0;
  for (let i = begin; i < end; i++) variance += (data[i]! - mean) ** 2;
  return [mean, 1 / Math.sqrt(variance / (end - begin) + epsilon)];
}

/** Normalisations by their definitions. */
export const evaluateNormalization: Evaluators<'LayerNormalization' | 'GroupNormalization' | 'Softmax'> = {
  LayerNormalization: ([x, weight, bias], { attributes: { epsilon }, outputs }) => {
    const [y, means, inverses] = outputs.map(({ shape }) => dense(shape));
    const n = x!.shape.at(-1)!;
    for (let row = 0; row < means!.data.length; row++) {
      const [mean, inverse] = moments(x!.data, row * n, (row + 1) * n, epsilon);
      means!.data[row] = mean;
      inverses!.data[row] = inverse;
      for (let i = 0; i < n; i++) {
        y!.data[row * n + i] = (x!.data[row * n + i]! - mean) * inverse * weight!.data[i]! + bias!.data[i]!;
      }
    }
    return [y!, means!, inverses!];
  },
  GroupNormalization: ([x, weight, bias], { attributes: { groups, epsilon } }) => {
    const y = dense(x!.shape);
    const [batch, channels] = x!.shape as [number, number];
    const perChannel = sizeOf(x!.shape) / (batch * channels);
    const perGroup = (channels / groups) * perChannel;
    for (let group = 0; group < batch * groups; group++) {
      const begin = group * perGroup;
      const [mean, inverse] = moments(x!.data, begin, begin + perGroup, epsilon);
      for (let i = begin; i < begin + perGroup; i++) {
        const channel = Math.floor(i / perChannel) % channels;
        y.data[i] = (x!.data[i]! - mean) * inverse * weight!.data[channel]! + bias!.data[channel]!;
      }
    }
    return [y];
  },
  Softmax: ([x], { attributes: { axis } }) => {
    const y = dense(x!.shape);
    const along = axis < 0 ? axis + x!.shape.length : axis;
    const size = x!.shape[along]!;
    const stride = sizeOf(x!.shape.slice(along + 1));
    for (let start = 0; start < y.data.length; start++) {
      if (Math.floor(start / stride) % size !== 0) continue;
      let largest = Number.NEGATIVE_INFINITY;
      for (let i = 0; i < size; i++) largest = Math.max(largest, x!.data[start + i * stride]!);
      let sum = 0;
      for (let i = 0; i < size; i++) {
        y.data[start + i * stride] = Math.exp(x!.data[start + i * stride]! - largest);
        sum += y.data[start + i * stride]!;
      }
      for (let i = 0; i < size; i++) y.data[start + i * stride]! /= sum;
    }
    return [y];
  },
};
