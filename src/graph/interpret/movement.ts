import { sizeOf } from '../../tensor/tensor.ts';
import type { MovementOp } from '../ops/movement.ts';
import { normalAxis } from '../ops/rule.ts';
import { broadcastOffset, type Dense, dense, type Evaluators, forEachIndex, stridesOf } from './evaluator.ts';

/** `count` slices of `x` along `axis`, beginning at `start`. */
function cut(x: Dense, axis: number, start: number, count: number): Dense {
  const out = dense(x.shape.with(axis, count));
  const strides = stridesOf(x.shape);
  forEachIndex(out.shape, (flat, index) => {
    let offset = start * strides[axis]!;
    for (let i = 0; i < index.length; i++) offset += index[i]! * strides[i]!;
    out.data[flat] = x.data[offset]!;
  });
  return out;
}

/** Operators that only move numbers. */
export const evaluateMovement: Evaluators<MovementOp> = {
  Reshape: ([x], { attributes: { shape } }) => [dense(shape, x!.data)],
  Transpose: ([x], { attributes: { perm }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const strides = stridesOf(x!.shape);
    forEachIndex(out.shape, (flat, index) => {
      let offset = 0;
      for (let i = 0; i < perm.length; i++) offset += index[i]! * strides[perm[i]!]!;
      out.data[flat] = x!.data[offset]!;
    });
    return [out];
  },
  Concat: (inputs, { attributes: { axis }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const along = normalAxis(axis, out.shape.length);
    const inner = sizeOf(out.shape.slice(along + 1));
    const outer = sizeOf(out.shape.slice(0, along));
    let begin = 0;
    for (const part of inputs) {
      const run = part!.shape[along]! * inner;
      for (let i = 0; i < outer; i++) {
        out.data.set(part!.data.subarray(i * run, (i + 1) * run), i * out.shape[along]! * inner + begin);
      }
      begin += run;
    }
    return [out];
  },
  Split: ([x], { attributes: { axis, sizes } }) => {
    const along = normalAxis(axis, x!.shape.length);
    let start = 0;
    return sizes.map((size) => {
      start += size;
      return cut(x!, along, start - size, size);
    });
  },
  Slice: ([x], { attributes: { axis, start, end } }) => [
    cut(x!, normalAxis(axis, x!.shape.length), start, end - start),
  ],
  Gather: ([data, indices], { attributes: { axis }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const along = normalAxis(axis, data!.shape.length);
    const inner = sizeOf(data!.shape.slice(along + 1));
    const count = indices!.data.length;
    for (let block = 0; block < out.data.length / inner; block++) {
      const outer = Math.floor(block / count);
      const row = outer * data!.shape[along]! + indices!.data[block % count]!;
      out.data.set(data!.data.subarray(row * inner, (row + 1) * inner), block * inner);
    }
    return [out];
  },
  ScatterRows: ([rows, indices], { attributes: { size }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const width = out.data.length / size;
    indices!.data.forEach((row, i) => {
      for (let k = 0; k < width; k++) out.data[row * width + k]! += rows!.data[i * width + k]!;
    });
    return [out];
  },
  Expand: ([x], { outputs }) => {
    const out = dense(outputs[0]!.shape);
    const strides = stridesOf(x!.shape);
    forEachIndex(out.shape, (flat, index) => {
      out.data[flat] = x!.data[broadcastOffset(index, x!.shape, strides)]!;
    });
    return [out];
  },
};
