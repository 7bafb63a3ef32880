/** Gradients of convolutions and of nearest-neighbour enlargement. */
import { NoGradientError } from '../../errors.ts';
import type { GraphBuilder } from '../builder.ts';
import type { OpAttributes } from '../op-types.ts';
import { matmul } from '../ops/matmul.ts';
import { slice, transpose } from '../ops/movement.ts';
import { reduceSum } from '../ops/reduction.ts';
import type { Value } from '../value.ts';
import { only, type Vjps } from './rule.ts';

/**
 * dW of a convolution: dW[o, c] = Σ over batch and places of dy[o] · x[c] shifted. That is a convolution again, with
 * the batch as channels and dy as the kernel, whose taps lie `stride` apart.
 */
function weightGradient(
  g: GraphBuilder,
  image: Value,
  dy: Value,
  { strides, pads }: Pick<OpAttributes['Conv'], 'strides' | 'pads'>,
  kernel: readonly number[],
): Value {
  const swap = [1, 0, 2, 3];
  const attributes = { strides: [1, 1], pads, dilations: strides } as const;
  let d = g.node('Conv', [transpose(g, image, swap), transpose(g, dy, swap), null], attributes)[0]!;
  // Shifts beyond the kernel appear where a stride leaves a row over.
  if (d.shape[2] !== kernel[0]) d = slice(g, d, 2, 0, kernel[0]!);
  if (d.shape[3] !== kernel[1]) d = slice(g, d, 3, 0, kernel[1]!);
  return transpose(g, d, swap);
}

/** [height, from] with a one where row i is a copy of row ⌊i · from / height⌋. */
function copies(g: GraphBuilder, dtype: Value['dtype'], height: number, from: number): Value {
  const data = new Float64Array(height * from);
  for (let i = 0; i < height; i++) data[i * from + Math.floor((i * from) / height)] = 1;
  return g.constant(
    dtype === 'float64'
      ? { dtype, shape: [height, from], data }
      : { dtype: 'float32', shape: [height, from], data: Float32Array.from(data) },
  );
}

export const convolutionVjps: Vjps<'Conv' | 'ConvTranspose' | 'Resize'> = {
  Conv: (g, node, dys, needs) => {
    const { inputs, attributes } = node;
    const [x, weight] = inputs as [Value, Value];
    const { strides, pads, dilations } = attributes;
    const dy = only(dys);
    if (dilations.some((dilation) => dilation !== 1)) {
      throw new NoGradientError(`Conv "${node.name}": dilated convolutions have no gradient rule`);
    }
    const [height, width] = x.shape.slice(2) as [number, number];
    return [
      // The transposed map, over the same weight: nothing is copied or turned around.
      needs[0] ? g.node('ConvTranspose', [dy, weight], { strides, pads, height, width })[0]! : null,
      needs[1] ? weightGradient(g, x, dy, attributes, weight.shape.slice(2)) : null,
      needs[2] ? reduceSum(g, dy, [0, 2, 3], false) : null,
    ];
  },
  ConvTranspose: (g, { inputs, attributes }, dys, needs) => {
    const [x, weight] = inputs as [Value, Value];
    const { strides, pads } = attributes;
    const dy = only(dys);
    return [
      needs[0] ? g.node('Conv', [dy, weight, null], { strides, pads, dilations: [1, 1] })[0]! : null,
      needs[1] ? weightGradient(g, dy, x, attributes, weight.shape.slice(2)) : null,
    ];
  },
  // Copies of rows and columns: dx = Rᵀ dy C with R, C of zeros and ones.
  Resize: (g, { inputs: [x], attributes: { height, width } }, dys) => {
    const dy = only(dys);
    const [fromHeight, fromWidth] = x!.shape.slice(2) as [number, number];
    const columns = matmul(g, dy, copies(g, dy.dtype, width, fromWidth));
    return [matmul(g, copies(g, dy.dtype, height, fromHeight), columns, { transA: true })];
  },
};
