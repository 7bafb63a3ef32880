/**
 * T2I-Adapter: a guiding picture to features that a UNet adds up with its own, computed once per picture.
 * Source: diffusers, models/adapter.py (FullAdapter, FullAdapterXL); Mou et al. 2023 (2302.08453).
 */
import { ShapeError } from '../../errors.ts';
import type { GraphBuilder } from '../../graph/builder.ts';
import { add, mul, sqrt } from '../../graph/ops/elementwise.ts';
import { gather, reshape, transpose } from '../../graph/ops/movement.ts';
import { reduceMean } from '../../graph/ops/reduction.ts';
import type { Value } from '../../graph/value.ts';
import { int64 } from '../../tensor/tensor.ts';
import { conv2d } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';
import type { AdapterConfig } from './config.ts';

/** Output [1, C_i, h_i, w_i]: the i-th feature. */
export const featureOutput = (feature: number): string => `feature.${feature}`;

/**
 * Write the adapter. Input: `image` [1, 3, H, W] in [0, 1]. Outputs: `featureOutput(i)`, the first at 1/8 of the picture (SDXL: 1/16),
 * and where a block halves, one half of that, rounded up.
 * @throws {ShapeError} if the picture is not divisible by the adapter's factor
 */
export function buildT2iAdapter(
  weights: WeightSource,
  config: AdapterConfig,
  { imageHeight, imageWidth }: { readonly imageHeight: number; readonly imageWidth: number },
): Network {
  const net = new NetworkBuilder(weights);
  const { g } = net;
  const { type, inChannels, channels, downscaleFactor, numResBlocks } = config;
  const halves = (block: number): boolean => (type === 'full_adapter_xl' ? block === 2 : block > 0);
  const image = g.input('image', 'float32', [1, inChannels, imageHeight, imageWidth]);
  net.within('adapter', () => {
    let x = conv2d(net, pixelUnshuffle(g, image, downscaleFactor), 'conv_in', { out: channels[0]! });
    channels.forEach((out, i) => {
      x = net.within(`body.${i}`, () => {
        let y = halves(i) ? averagePool2(g, x) : x;
        if (y.shape[1] !== out) y = conv2d(net, y, 'in_conv', { out, kernel: 1 });
        for (let j = 0; j < numResBlocks; j++) {
          y = net.within(`resnets.${j}`, () => {
            const hidden = relu(g, conv2d(net, y, 'block1', { out }));
            return add(g, conv2d(net, hidden, 'block2', { out, kernel: 1 }), y);
          });
        }
        return y;
      });
      g.output(featureOutput(i), x);
    });
  });
  return net.finish();
}

/** max(x, 0) = (x + √(x²)) / 2: once per picture, so not worth an operator. */
function relu(g: GraphBuilder, x: Value): Value {
  return mul(g, add(g, x, sqrt(g, mul(g, x, x))), g.scalar(0.5));
}

/** [B, C, H, W] → [B, C·r², H/r, W/r]: each r × r square of pixels becomes channels. */
function pixelUnshuffle(g: GraphBuilder, x: Value, r: number): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  if (height % r !== 0 || width % r !== 0) {
    throw new ShapeError(
      `adapter: expected a picture with sides divisible by ${r}, got ${width} × ${height}`,
    );
  }
  const [rows, cols] = [height / r, width / r];
  const squares = transpose(g, reshape(g, x, [batch, channels, rows, r, cols, r]), [0, 1, 3, 5, 2, 4]);
  return reshape(g, squares, [batch, channels * r * r, rows, cols]);
}

/** Mean of 2 × 2 cells; at an odd edge of those that are there. */
function averagePool2(g: GraphBuilder, x: Value): Value {
  const [batch, channels] = x.shape as [number, number];
  // An odd edge counted twice has the mean of the cells that are there.
  const even = [2, 3].reduce((value, axis) => {
    const size = value.shape[axis]!;
    if (size % 2 === 0) return value;
    const indices = Array.from({ length: size + 1 }, (_, i) => Math.min(i, size - 1));
    return gather(g, value, g.constant(int64([size + 1], indices)), axis);
  }, x);
  const [rows, cols] = [even.shape[2]! / 2, even.shape[3]! / 2];
  return reduceMean(g, reshape(g, even, [batch, channels, rows, 2, cols, 2]), [3, 5], false);
}
