/** Gradients of layer norm, group norm and softmax, each as one rule: shorter and faster than those of their parts. */
import { sizeOf } from '../../tensor/tensor.ts';
import type { GraphBuilder } from '../builder.ts';
import { add, div, mul, sqrt, sub } from '../ops/elementwise.ts';
import { reshape } from '../ops/movement.ts';
import { reduceMean, reduceSum } from '../ops/reduction.ts';
import type { Value } from '../value.ts';
import { number, only, refuseOutput, sumTo, type Vjps } from './rule.ts';

/** With x̂ normalised along `axis` and dx̂ given: dx = (dx̂ − mean dx̂ − x̂ · mean(dx̂ x̂)) / deviation. */
function throughNormal(g: GraphBuilder, normal: Value, d: Value, inverse: Value, axis: number): Value {
  const centred = sub(g, d, reduceMean(g, d, [axis]));
  const along = mul(g, normal, reduceMean(g, mul(g, d, normal), [axis]));
  return mul(g, sub(g, centred, along), inverse);
}

export const normalizationVjps: Vjps<'LayerNormalization' | 'GroupNormalization' | 'Softmax'> = {
  LayerNormalization: (g, node, dys, needs) => {
    const [x, weight, bias] = node.inputs as [Value, Value, Value];
    const [, mean, inverse] = node.outputs as [Value, Value, Value];
    refuseOutput(node, dys, 1);
    refuseOutput(node, dys, 2);
    const dy = only(dys);
    const normal = mul(g, sub(g, x, mean), inverse);
    return [
      needs[0] ? throughNormal(g, normal, mul(g, dy, weight), inverse, x.shape.length - 1) : null,
      needs[1] ? sumTo(g, mul(g, dy, normal), weight.shape) : null,
      needs[2] ? sumTo(g, dy, bias.shape) : null,
    ];
  },
  GroupNormalization: (g, { inputs, attributes: { groups, epsilon } }, dys, needs) => {
    const [x, weight] = inputs as [Value, Value];
    const dy = only(dys);
    const [batch, channels] = x.shape as [number, number];
    const grouped = [batch, groups, sizeOf(x.shape) / (batch * groups)];
    const perChannel = [channels, ...x.shape.slice(2).map(() => 1)];
    const rows = reshape(g, x, grouped);
    const centred = sub(g, rows, reduceMean(g, rows, [2]));
    const variance = reduceMean(g, mul(g, centred, centred), [2]);
    const inverse = div(g, number(g, x, 1), sqrt(g, add(g, variance, number(g, x, epsilon))));
    const normal = mul(g, centred, inverse);
    let dx: Value | null = null;
    if (needs[0]) {
      const d = reshape(g, mul(g, dy, reshape(g, weight, perChannel)), grouped);
      dx = reshape(g, throughNormal(g, normal, d, inverse, 2), x.shape);
    }
    const perWeight = (d: Value): Value => reshape(g, sumTo(g, d, perChannel), [channels]);
    return [
      dx,
      needs[1] ? perWeight(mul(g, dy, reshape(g, normal, x.shape))) : null,
      needs[2] ? perWeight(dy) : null,
    ];
  },
  // dx = y (dy − Σ dy y)
  Softmax: (g, { outputs: [y], attributes: { axis } }, dys) => {
    const dy = only(dys);
    return [mul(g, y!, sub(g, dy, reduceSum(g, mul(g, dy, y!), [axis])))];
  },
};
