/** Layer norm, group norm and softmax. */
import { ShapeError } from '../../errors.ts';
import type { NodeWriter } from '../node-writer.ts';
import type { Value } from '../value.ts';
import { expectShape, normalAxis, required, type ShapeRules, sameDtype } from './rule.ts';

export const normalizationShapes: ShapeRules<'LayerNormalization' | 'GroupNormalization' | 'Softmax'> = {
  LayerNormalization: (inputs) => {
    const x = required(inputs, 0);
    const n = x.shape.at(-1)!;
    expectShape(required(inputs, 1), [n], 'weight');
    expectShape(required(inputs, 2), [n], 'bias');
    const dtype = sameDtype(inputs);
    const statistics = { dtype, shape: [...x.shape.slice(0, -1), 1] };
    return [{ dtype, shape: x.shape }, statistics, statistics];
  },
  GroupNormalization: (inputs, { groups }) => {
    const x = required(inputs, 0);
    const channels = x.shape[1]!;
    if (channels % groups !== 0) {
      throw new ShapeError(`${channels} channels do not divide into ${groups} groups`);
    }
    expectShape(required(inputs, 1), [channels], 'weight');
    expectShape(required(inputs, 2), [channels], 'bias');
    return [{ dtype: sameDtype(inputs), shape: x.shape }];
  },
  Softmax: (inputs, { axis }) => {
    const x = required(inputs, 0);
    normalAxis(axis, x.shape.length);
    return [{ dtype: x.dtype, shape: x.shape }];
  },
};

/** (x − mean) / √(variance + epsilon) · weight + bias over the last axis. */
export function layerNorm(g: NodeWriter, x: Value, weight: Value, bias: Value, epsilon = 1e-5): Value {
  return g.node('LayerNormalization', [x, weight, bias], { epsilon })[0]!;
}

/** Normalisation over groups of channels and all positions of [B, C, …]. */
export function groupNorm(
  g: NodeWriter,
  x: Value,
  weight: Value,
  bias: Value,
  options: { groups: number; epsilon: number },
): Value {
  return g.node('GroupNormalization', [x, weight, bias], options)[0]!;
}

export function softmax(g: NodeWriter, x: Value, axis = -1): Value {
  return g.node('Softmax', [x], { axis })[0]!;
}
