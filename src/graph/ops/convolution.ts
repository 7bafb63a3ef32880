/** Convolution and nearest-neighbour enlargement of [B, C, H, W]. */
import { ShapeError } from '../../errors.ts';
import type { NodeWriter } from '../node-writer.ts';
import type { Value } from '../value.ts';
import { expectRank, expectShape, required, type ShapeRules, sameDtype } from './rule.ts';

export const convolutionShapes: ShapeRules<'Conv' | 'ConvTranspose' | 'Resize'> = {
  Conv: (inputs, { strides, pads, dilations }) => {
    const x = required(inputs, 0);
    const weight = required(inputs, 1);
    expectRank(x, 4, 'input');
    expectRank(weight, 4, 'weight');
    const [batch, channels, height, width] = x.shape as [number, number, number, number];
    const [out, weightChannels, kernelHeight, kernelWidth] = weight.shape as [number, number, number, number];
    if (channels !== weightChannels) {
      throw new ShapeError(
        `${weightChannels} input channels expected by weight [${weight.shape.join(', ')}], got ${channels}`,
      );
    }
    if (inputs[2]) expectShape(inputs[2], [out], 'bias');
    const reach = [(kernelHeight - 1) * dilations[0] + 1, (kernelWidth - 1) * dilations[1] + 1] as const;
    const outHeight = Math.floor((height + pads[0] + pads[2] - reach[0]) / strides[0]) + 1;
    const outWidth = Math.floor((width + pads[1] + pads[3] - reach[1]) / strides[1]) + 1;
    if (outHeight < 1 || outWidth < 1) throw new ShapeError(`nothing left of ${height} × ${width}`);
    return [{ dtype: sameDtype([x, weight, inputs[2] ?? null]), shape: [batch, out, outHeight, outWidth] }];
  },
  ConvTranspose: (inputs, { strides, pads, height, width }) => {
    const x = required(inputs, 0);
    const weight = required(inputs, 1);
    expectRank(x, 4, 'input');
    expectRank(weight, 4, 'weight');
    const [batch, channels, rows, cols] = x.shape as [number, number, number, number];
    const [weightChannels, out, kernelHeight, kernelWidth] = weight.shape as [number, number, number, number];
    if (channels !== weightChannels) {
      throw new ShapeError(
        `${weightChannels} channels expected by weight [${weight.shape.join(', ')}], got ${channels}`,
      );
    }
    if (
      Math.floor((height + pads[0] + pads[2] - kernelHeight) / strides[0]) + 1 !== rows ||
      Math.floor((width + pads[1] + pads[3] - kernelWidth) / strides[1]) + 1 !== cols
    ) {
      throw new ShapeError(`a convolution of ${height} × ${width} does not give ${rows} × ${cols}`);
    }
    return [{ dtype: sameDtype([x, weight]), shape: [batch, out, height, width] }];
  },
  Resize: (inputs, { height, width }) => {
    const x = required(inputs, 0);
    expectRank(x, 4, 'input');
    if (height < x.shape[2]! || width < x.shape[3]!) {
      throw new ShapeError(`expected at least ${x.shape[2]} × ${x.shape[3]}, got ${height} × ${width}`);
    }
    return [{ dtype: x.dtype, shape: [x.shape[0]!, x.shape[1]!, height, width] }];
  },
};

/** 2-D convolution. `pads` are top, left, bottom, right; one number pads all sides. */
export function conv(
  g: NodeWriter,
  x: Value,
  weight: Value,
  bias: Value | null,
  {
    stride = 1,
    pads = 0,
    dilation = 1,
  }: {
    stride?: number;
    pads?: number | readonly [number, number, number, number];
    dilation?: number;
  } = {},
): Value {
  const sides = typeof pads === 'number' ? ([pads, pads, pads, pads] as const) : pads;
  return g.node('Conv', [x, weight, bias], {
    strides: [stride, stride],
    pads: sides,
    dilations: [dilation, dilation],
  })[0]!;
}

/** Nearest-neighbour enlargement; row i of the output is row ⌊i · H / height⌋ of the input, as in PyTorch. */
export function resizeNearest(g: NodeWriter, x: Value, height: number, width: number): Value {
  return g.node('Resize', [x], { height, width })[0]!;
}
