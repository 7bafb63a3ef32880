/** Reductions over named axes. */
import type { NodeWriter } from '../node-writer.ts';
import type { OpAttributes } from '../op-types.ts';
import type { Value, ValueSpec } from '../value.ts';
import { normalAxis, required, type ShapeRules } from './rule.ts';

export type ReductionOp = 'ReduceSum' | 'ReduceMean' | 'ReduceMax';

const reduction = (
  inputs: readonly (ValueSpec | null)[],
  { axes, keepDims }: OpAttributes['ReduceSum'],
): ValueSpec[] => {
  const x = required(inputs, 0);
  const reduced = new Set(axes.map((axis) => normalAxis(axis, x.shape.length)));
  const shape = x.shape.flatMap((dim, i) => (reduced.has(i) ? (keepDims ? [1] : []) : [dim]));
  return [{ dtype: x.dtype, shape }];
};

export const reductionShapes: ShapeRules<ReductionOp> = {
  ReduceSum: reduction,
  ReduceMean: reduction,
  ReduceMax: reduction,
};

/** Sum over `axes`; they stay with size 1 unless `keepDims` is false. */
export function reduceSum(g: NodeWriter, x: Value, axes: readonly number[], keepDims = true): Value {
  return g.node('ReduceSum', [x], { axes, keepDims })[0]!;
}

/** Mean over `axes`; they stay with size 1 unless `keepDims` is false. */
export function reduceMean(g: NodeWriter, x: Value, axes: readonly number[], keepDims = true): Value {
  return g.node('ReduceMean', [x], { axes, keepDims })[0]!;
}

/** Largest element over `axes`; they stay with size 1 unless `keepDims` is false. */
export function reduceMax(g: NodeWriter, x: Value, axes: readonly number[], keepDims = true): Value {
  return g.node('ReduceMax', [x], { axes, keepDims })[0]!;
}
