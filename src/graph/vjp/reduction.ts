/** Gradients of reductions: spread back over the axes that were reduced. */
import { sizeOf } from '../../tensor/tensor.ts';
import type { GraphBuilder } from '../builder.ts';
import type { OpAttributes } from '../op-types.ts';
import { cast, div, equal, mul } from '../ops/elementwise.ts';
import { expand, reshape } from '../ops/movement.ts';
import { type ReductionOp, reduceSum } from '../ops/reduction.ts';
import { normalAxis } from '../ops/rule.ts';
import type { Value } from '../value.ts';
import { only, scaled, type Vjps } from './rule.ts';

/** A reduced value with the reduced axes put back at size one. */
function withAxes(
  g: GraphBuilder,
  reduced: Value,
  x: Value,
  { axes, keepDims }: OpAttributes['ReduceSum'],
): Value {
  if (keepDims) return reduced;
  const gone = new Set(axes.map((axis) => normalAxis(axis, x.shape.length)));
  return reshape(
    g,
    reduced,
    x.shape.map((dim, i) => (gone.has(i) ? 1 : dim)),
  );
}

export const reductionVjps: Vjps<ReductionOp> = {
  ReduceSum: (g, { inputs: [x], attributes }, dys) => [
    expand(g, withAxes(g, only(dys), x!, attributes), x!.shape),
  ],
  ReduceMean: (g, { inputs: [x], outputs: [y], attributes }, dys) => {
    const share = sizeOf(y!.shape) / sizeOf(x!.shape);
    return [expand(g, scaled(g, withAxes(g, only(dys), x!, attributes), share), x!.shape)];
  },
  // Equal largest elements share the gradient, as in PyTorch's amax.
  ReduceMax: (g, { inputs: [x], outputs: [y], attributes }, dys) => {
    const dy = withAxes(g, only(dys), x!, attributes);
    const largest = cast(g, equal(g, x!, withAxes(g, y!, x!, attributes)), dy.dtype as 'float32' | 'float64');
    return [mul(g, largest, div(g, dy, reduceSum(g, largest, attributes.axes)))];
  },
};
