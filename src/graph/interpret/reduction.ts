import { sizeOf } from '../../tensor/tensor.ts';
import type { ReductionOp } from '../ops/reduction.ts';
import { normalAxis } from '../ops/rule.ts';
import { type Dense, dense, type Evaluators, forEachIndex, stridesOf } from './evaluator.ts';

function fold(
  x: Dense,
  axes: readonly number[],
  outShape: readonly number[],
  start: number,
  combine: (a: number, b: number) => number,
): Dense {
  const reduced = new Set(axes.map((axis) => normalAxis(axis, x.shape.length)));
  const kept = x.shape.map((dim, i) => (reduced.has(i) ? 1 : dim));
  const strides = stridesOf(kept);
  const out = dense(outShape, new Float64Array(sizeOf(outShape)).fill(start));
  forEachIndex(x.shape, (flat, index) => {
    let offset = 0;
    for (let i = 0; i < index.length; i++) if (!reduced.has(i)) offset += index[i]! * strides[i]!;
    out.data[offset] = combine(out.data[offset]!, x.data[flat]!);
  });
  return out;
}

const add = (a: number, b: number): number => a + b;

/** Reductions, one element after the other. */
export const evaluateReduction: Evaluators<ReductionOp> = {
  ReduceSum: ([x], { attributes: { axes }, outputs }) => [fold(x!, axes, outputs[0]!.shape, 0, add)],
  ReduceMean: ([x], { attributes: { axes }, outputs }) => {
    const sum = fold(x!, axes, outputs[0]!.shape, 0, add);
    const count = x!.data.length / sum.data.length;
    return [
      dense(
        sum.shape,
        sum.data.map((value) => value / count),
      ),
    ];
  },
  ReduceMax: ([x], { attributes: { axes }, outputs }) => [
    fold(x!, axes, outputs[0]!.shape, Number.NEGATIVE_INFINITY, Math.max),
  ],
};
