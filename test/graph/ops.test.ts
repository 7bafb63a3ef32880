/** Every operator: onnxruntime against the plain interpreter on small odd shapes. */
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { multiHeadAttention } from '../../src/graph/ops/attention.ts';
import { conv, resizeNearest } from '../../src/graph/ops/convolution.ts';
import {
  add,
  cast,
  cos,
  div,
  equal,
  erf,
  exp,
  gelu,
  mul,
  quickGelu,
  sigmoid,
  silu,
  sin,
  sqrt,
  stopGradient,
  sub,
} from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import * as movement from '../../src/graph/ops/movement.ts';
import { groupNorm, softmax } from '../../src/graph/ops/normalization.ts';
import { reduceMax, reduceMean, reduceSum } from '../../src/graph/ops/reduction.ts';
import type { Value } from '../../src/graph/value.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, int64, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';

type Write = (g: GraphBuilder, ...inputs: Value[]) => Value | readonly Value[];

/** Deterministic numbers in (−1, 1) that differ from axis to axis. */
function numbers(shape: readonly number[], seed: number): Tensor<Float32Array> {
  return float32(
    shape,
    Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(1.7 * i + 3.1 * seed + 0.4)),
  );
}

async function agree(write: Write, ...inputs: Tensor[]): Promise<void> {
  const g = new GraphBuilder();
  const values = inputs.map((tensor, i) => g.input(`in${i}`, tensor.dtype, tensor.shape));
  const result = write(g, ...values);
  (Array.isArray(result) ? (result as Value[]) : [result as Value]).forEach((value, i) => {
    g.output(`out${i}`, value);
  });
  const graph = g.finish();
  const feeds = Object.fromEntries(inputs.map((tensor, i) => [`in${i}`, tensor]));
  const session = await defaultRuntime().load(graph, 'every-step');
  const actual = await session.run(feeds);
  await session.dispose();
  for (const [name, expected] of Object.entries(interpret(graph, feeds))) {
    expect(actual[name]!.shape).toEqual([...expected.shape]);
    expect(actual[name]!.data as Float32Array).toBeAllClose(expected.data as Float32Array, {
      rtol: 3e-6,
      atol: 1e-6,
    });
  }
}

const [a, b] = [numbers([2, 3, 4], 1), numbers([3, 1], 2)];
const image = numbers([2, 6, 5, 7], 3);

describe('elementwise', () => {
  for (const [name, op] of Object.entries({ add, sub, mul, div })) {
    it(`${name} broadcasts both ways`, async () => {
      await agree((g, x, y) => op(g, x!, y!), a, b);
      await agree((g, x, y) => op(g, x!, y!), b, a);
    });
  }
  it('compares', () => agree((g, x, y) => cast(g, equal(g, x!, y!), 'float32'), a, a));
  it('stopGradient changes nothing', () => agree((g, x) => stopGradient(g, x!), a));
  for (const [name, op] of Object.entries({ erf, exp, sin, cos, sigmoid, gelu, quickGelu, silu })) {
    it(name, () => agree((g, x) => op(g, x!), a));
  }
  it('sqrt', () => agree((g, x) => sqrt(g, mul(g, x!, x!)), a));
});

describe('matmul', () => {
  it('takes [out, in] weights', () =>
    agree((g, x, w) => matmul(g, x!, w!, { transB: true }), a, numbers([5, 4], 4)));
  it('makes Gram matrices', () =>
    agree((g, x) => matmul(g, x!, x!, { transA: true, alpha: 0.5 }), numbers([7, 3], 5)));
  it('broadcasts leading axes', () =>
    agree((g, x, y) => matmul(g, x!, y!), numbers([2, 1, 3, 4], 6), numbers([5, 4, 2], 7)));
  it('accepts an empty inner axis as a zero update', () =>
    agree((g, x, w) => matmul(g, x!, w!, { transB: true }), float32([3, 0]), float32([2, 0])));
});

describe('convolution', () => {
  it('pads both sides', () =>
    agree(
      (g, x, w, c) => conv(g, x!, w!, c!, { pads: 1 }),
      image,
      numbers([4, 6, 3, 3], 8),
      numbers([4], 9),
    ));
  it('pads one side and strides', () =>
    agree(
      (g, x, w) => conv(g, x!, w!, null, { stride: 2, pads: [0, 0, 1, 1] }),
      image,
      numbers([4, 6, 3, 3], 10),
    ));
  it('dilates', () =>
    agree((g, x, w) => conv(g, x!, w!, null, { pads: 2, dilation: 2 }), image, numbers([4, 6, 3, 3], 10)));
  for (const [stride, rows, cols] of [
    [1, 5, 7],
    [2, 3, 4],
  ] as const) {
    it(`transposes stride ${stride}`, () =>
      agree(
        (g, x, w) =>
          g.node('ConvTranspose', [x!, w!], {
            strides: [stride, stride],
            pads: [1, 1, 1, 1],
            height: 5,
            width: 8 - (stride % 2),
          }),
        numbers([2, 4, rows, cols], 20),
        numbers([4, 6, 3, 3], 21),
      ));
  }
  it('transposes one-sided padding', () =>
    agree(
      (g, x, w) =>
        g.node('ConvTranspose', [x!, w!], { strides: [2, 2], pads: [0, 0, 1, 1], height: 6, width: 7 }),
      numbers([1, 4, 3, 3], 20),
      numbers([4, 2, 3, 3], 21),
    ));
  // Large maps go another way on the CPU: as a convolution that is turned around.
  for (const [kernelHeight, kernelWidth, pads] of [
    [3, 3, [1, 1, 1, 1]],
    [3, 3, [0, 1, 2, 0]],
    [5, 2, [3, 0, 1, 1]],
    [1, 1, [0, 0, 0, 0]],
    [1, 1, [0, 1, 0, 0]],
  ] as const) {
    it(`transposes maps of 23 × 24 by ${kernelHeight} × ${kernelWidth}, padded by ${pads.join()}`, () =>
      agree(
        (g, x, w) =>
          g.node('ConvTranspose', [x!, w!], {
            strides: [1, 1],
            pads,
            height: 23 + kernelHeight - 1 - pads[0] - pads[2],
            width: 24 + kernelWidth - 1 - pads[1] - pads[3],
          }),
        numbers([2, 3, 23, 24], 20),
        numbers([3, 2, kernelHeight, kernelWidth], 21),
      ));
  }
  it('doubles', () => agree((g, x) => resizeNearest(g, x!, 10, 14), image));
  it('enlarges to odd sizes as PyTorch does', () => agree((g, x) => resizeNearest(g, x!, 9, 13), image));
});

describe('normalisation', () => {
  it('layer norm with its statistics', () =>
    agree(
      (g, x, w, c) => g.node('LayerNormalization', [x!, w!, c!], { epsilon: 1e-5 }),
      a,
      numbers([4], 11),
      numbers([4], 12),
    ));
  it('group norm', () =>
    agree(
      (g, x, w, c) => groupNorm(g, x!, w!, c!, { groups: 3, epsilon: 1e-2 }),
      image,
      numbers([6], 13),
      numbers([6], 14),
    ));
  it('softmax over an inner axis', () => agree((g, x) => softmax(g, x!, 1), a));
});

describe('attention', () => {
  const [q, k, v] = [numbers([2, 5, 6], 15), numbers([2, 4, 6], 16), numbers([2, 4, 6], 17)];
  it('of other keys', () =>
    agree((g, x, y, z) => multiHeadAttention(g, { q: x!, k: y!, v: z! }, 2), q, k, v));
  it('with a bias shared by batch and heads', () =>
    agree(
      (g, x, y, z, bias) => multiHeadAttention(g, { q: x!, k: y!, v: z!, bias: bias! }, 3),
      q,
      k,
      v,
      numbers([1, 1, 5, 4], 18),
    ));
});

describe('movement', () => {
  it('transposes', () => agree((g, x) => movement.transpose(g, x!, [2, 0, 1]), a));
  it('reshapes', () => agree((g, x) => movement.reshape(g, x!, [6, 1, 4]), a));
  it('joins', () => agree((g, x, y) => movement.concat(g, [x!, y!], 1), a, numbers([2, 2, 4], 19)));
  it('splits', () => agree((g, x) => movement.split(g, x!, [1, 3], -1), a));
  it('cuts', () => agree((g, x) => movement.slice(g, x!, 1, 1, 3), a));
  it('scatters rows and adds them up', () =>
    agree(
      (g, x, i) => movement.scatterRows(g, x!, i!, 5),
      numbers([2, 2, 3], 22),
      int64([2, 2], [2, 0, 2, 4]),
    ));
  it('expands', () => agree((g, x) => movement.expand(g, x!, [2, 3, 4]), b));
  it('gathers', () => agree((g, x, i) => movement.gather(g, x!, i!, 1), a, int64([2, 2], [2, 0, 1, 1])));
});

describe('reduction', () => {
  for (const [name, op] of Object.entries({ reduceSum, reduceMean, reduceMax })) {
    it(`${name} keeps or drops axes`, async () => {
      await agree((g, x) => op(g, x!, [-1, 0]), a);
      await agree((g, x) => op(g, x!, [1], false), a);
    });
  }
});

describe('mistakes are found where they are written', () => {
  it('names the call and the shapes', () => {
    const g = new GraphBuilder();
    const x = g.input('x', 'float32', [1, 8, 4, 4]);
    const w = g.input('w', 'float32', [320, 4, 3, 3]);
    expect(() => g.scope('unet', () => g.scope('conv_in', () => conv(g, x, w, null)))).toThrow(
      /Conv "unet\/conv_in\/Conv_\d+": 4 input channels expected by weight \[320, 4, 3, 3\], got 8/,
    );
  });
  it('refuses feeds that do not fit', async () => {
    const g = new GraphBuilder();
    g.output('y', add(g, g.input('x', 'float32', [2]), g.scalar(1)));
    const session = await defaultRuntime().load(g.finish(), 'every-step');
    await expect(session.run({ x: float32([3]) })).rejects.toThrow(
      'input "x": expected float32[2], got float32[3]',
    );
    await expect(session.run({})).rejects.toThrow('got nothing');
    await expect(session.run({ x: float32([2]), z: float32([2]) })).rejects.toThrow('no such input');
    await session.dispose();
  });
});
