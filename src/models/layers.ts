/** Layers shared by all networks. Each takes the network being written, its input and the checkpoint's own layer name. */
import { conv } from '../graph/ops/convolution.ts';
import { add, mul, silu } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { reshape, transpose } from '../graph/ops/movement.ts';
import { layerNorm as layerNormOp } from '../graph/ops/normalization.ts';
import type { Value } from '../graph/value.ts';
import type { NetworkBuilder } from './network.ts';

/**
 * y = x Wᵀ + (x Aᵀ ⊙ w) Bᵀ + b over the last axis, W [out, in]; the middle term only where factors were asked for, w where
 * they count in parts of the picture. 1×1 convolutions over tokens are this layer too.
 */
export function linear(
  net: NetworkBuilder,
  x: Value,
  name: string,
  { out, bias = true }: { out: number; bias?: boolean },
): Value {
  const n = x.shape.at(-1)!;
  net.probeInput(name, x);
  let y = matmul(net.g, x, net.weight(`${name}.weight`, [out, n]), { transB: true });
  const lora = net.lora(name, out, n);
  if (lora !== null) {
    const reduced = matmul(net.g, x, lora.down, { transB: true });
    const weights = x.shape.length === 3 ? net.factorWeights(name, x.shape[1]!) : null;
    const counted = weights === null ? reduced : mul(net.g, reduced, weights);
    y = add(net.g, y, matmul(net.g, counted, lora.up, { transB: true }));
  }
  if (bias) y = add(net.g, y, net.weight(`${name}.bias`, [out]));
  net.probeOutput(name, () => y);
  return y;
}

/**
 * `linear` of one row x [B, n] for a whole picture: [B, out, 1, 1], or [B, out, H, W] where its factors count in parts of it.
 */
export function pictureWide(
  net: NetworkBuilder,
  x: Value,
  name: string,
  { out, height, width }: { out: number; height: number; width: number },
): Value {
  const { g } = net;
  const [batch, n] = x.shape as [number, number];
  const weights = net.factorWeights(name, height * width);
  if (weights === null) return reshape(g, linear(net, x, name, { out }), [batch, out, 1, 1]);
  net.probeInput(name, x);
  const { down, up } = net.lora(name, out, n)!;
  const plain = matmul(g, x, net.weight(`${name}.weight`, [out, n]), { transB: true });
  const reduced = reshape(g, matmul(g, x, down, { transB: true }), [batch, 1, down.shape[0]!]);
  const change = toImage(net, matmul(g, mul(g, reduced, weights), up, { transB: true }), height, width);
  const own = reshape(g, add(g, plain, net.weight(`${name}.bias`, [out])), [batch, out, 1, 1]);
  return add(g, change, own);
}

/**
 * Convolution of [B, C, H, W] with a square kernel, and factors as LoCon has them: down with the kernel, up 1×1.
 * 1×1 kernels take probes too.
 */
export function conv2d(
  net: NetworkBuilder,
  x: Value,
  name: string,
  {
    out,
    kernel = 3,
    stride = 1,
    pads = (kernel - 1) / 2,
  }: {
    out: number;
    kernel?: number;
    stride?: number;
    pads?: number | readonly [number, number, number, number];
  },
): Value {
  const channels = x.shape[1]!;
  const weight = net.weight(`${name}.weight`, [out, channels, kernel, kernel]);
  if (kernel === 1) net.probeInput(name, x, () => toTokens(net, x));
  let y = net.writeConv(net.g, x, weight, net.weight(`${name}.bias`, [out]), { stride, pads });
  const lora = net.lora(name, out, channels * kernel * kernel);
  if (lora !== null) {
    const rank = lora.down.shape[0]!;
    const down = reshape(net.g, lora.down, [rank, channels, kernel, kernel]);
    const reduced = net.writeConv(net.g, x, down, null, { stride, pads });
    const [, , height, width] = reduced.shape as [number, number, number, number];
    const weights = net.factorWeights(name, height * width);
    const counted = weights === null ? reduced : mul(net.g, reduced, toImage(net, weights, height, width));
    y = add(net.g, y, conv(net.g, counted, reshape(net.g, lora.up, [out, rank, 1, 1]), null));
  }
  if (kernel === 1) net.probeOutput(name, () => toTokens(net, y));
  return y;
}

export function layerNorm(net: NetworkBuilder, x: Value, name: string, epsilon = 1e-5): Value {
  const n = x.shape.at(-1)!;
  return layerNormOp(net.g, x, net.weight(`${name}.weight`, [n]), net.weight(`${name}.bias`, [n]), epsilon);
}

export function groupNorm(
  net: NetworkBuilder,
  x: Value,
  name: string,
  options: { groups: number; epsilon: number },
): Value {
  const channels = x.shape[1]!;
  const weight = net.weight(`${name}.weight`, [channels]);
  return net.writeGroupNorm(net.g, x, weight, net.weight(`${name}.bias`, [channels]), options);
}

/** Group norm, SiLU, 3×3 convolution: the half of a residual block. */
export function normConv(
  net: NetworkBuilder,
  x: Value,
  names: { norm: string; conv: string },
  options: { out: number; groups: number; epsilon: number },
): Value {
  return conv2d(net, silu(net.g, groupNorm(net, x, names.norm, options)), names.conv, { out: options.out });
}

/** [B, C, H, W] → [B, H·W, C] */
export function toTokens(net: NetworkBuilder, x: Value): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  return transpose(net.g, reshape(net.g, x, [batch, channels, height * width]), [0, 2, 1]);
}

/** [B, H·W, C] → [B, C, H, W] */
export function toImage(net: NetworkBuilder, x: Value, height: number, width: number): Value {
  const [batch, , channels] = x.shape as [number, number, number];
  return reshape(net.g, transpose(net.g, x, [0, 2, 1]), [batch, channels, height, width]);
}
