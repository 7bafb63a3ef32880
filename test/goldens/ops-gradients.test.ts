/** Gradient rules against PyTorch's autograd on single operations, in float64; and the runtime's float32 beside it. */
import { beforeAll, describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat64 } from '../../src/formats/raw-tensor.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { gradients } from '../../src/graph/autodiff.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { multiHeadAttention } from '../../src/graph/ops/attention.ts';
import { conv, resizeNearest } from '../../src/graph/ops/convolution.ts';
import { add, div, gelu, mul, quickGelu, sigmoid, silu, sub } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { concat, gather, split } from '../../src/graph/ops/movement.ts';
import { groupNorm, layerNorm, softmax } from '../../src/graph/ops/normalization.ts';
import { reduceMean, reduceSum } from '../../src/graph/ops/reduction.ts';
import { pruned } from '../../src/graph/prune.ts';
import type { Value } from '../../src/graph/value.ts';
import { scaled } from '../../src/graph/vjp/rule.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, float64, int64, type Tensor } from '../../src/tensor/tensor.ts';
import { relativeError } from '../support/close.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/training';
const index = goldenJson<Record<string, { formula: string; inputs: Record<string, number[]> }>>(
  FOLDER,
  'ops.json',
);

type Inputs = Readonly<Record<string, Value>>;
/** `formula` as the index has it: what varies between sets of numbers (groups, heads, strides, scales) stands in it. */
type Write = (g: GraphBuilder, inputs: Inputs, formula: string) => Value;

/** The one number that `pattern` captures in a formula. */
function numberIn(formula: string, pattern: RegExp): number {
  const found = pattern.exec(formula)?.[1];
  if (found === undefined) throw new Error(`formula "${formula}" has no ${pattern}`);
  return Number(found);
}
const STRIDE = /stride\s*=?\s*(\d+)/;
const PADDING = /padding=(\d+)/;
/** A factor in front of a bracket or a call: `0.8 (…)`, `0.5*conv…`. */
const FACTOR = /(\d+(?:\.\d+)?)\s*(?:\*|\()/;

const attention =
  (causal: boolean): Write =>
  (g, { q, k, v }, formula) => {
    // The causal one is described "as above".
    const heads = numberIn(/heads=/.test(formula) ? formula : index.attention!.formula, /heads=(\d+)/);
    const [rows, columns] = [q!.shape[1]!, k!.shape[1]!];
    const mask = Float64Array.from({ length: rows * columns }, (_, i) =>
      i % columns > Math.floor(i / columns) ? -1e30 : 0,
    );
    const shape = [1, 1, rows, columns];
    const constant = g.constant(
      q!.dtype === 'float64' ? float64(shape, mask) : float32(shape, Float32Array.from(mask)),
    );
    return multiHeadAttention(g, { q: q!, k: k!, v: v!, bias: causal ? constant : null }, heads);
  };

const padded: Write = (g, { x, w_, b_ }, formula) =>
  conv(g, x!, w_!, b_!, { stride: numberIn(formula, STRIDE), pads: numberIn(formula, PADDING) });
const grouped: Write = (g, { x, w_, b_ }, formula) =>
  groupNorm(g, x!, w_!, b_!, {
    groups: numberIn(formula, /groups=(\d+)/),
    epsilon: numberIn(formula, /eps=([\de.-]+)/),
  });

/** Each formula of ops.json in our operators. */
const writers: Record<string, Write> = {
  conv3x3_s1: padded,
  conv3x3_s2: padded,
  conv3x3_s2_asym: (g, { x, w_, b_ }, formula) => {
    const end = numberIn(formula, /pad right and bottom by (\d+)/);
    return conv(g, x!, w_!, b_!, { stride: numberIn(formula, STRIDE), pads: [0, 0, end, end] });
  },
  conv1x1: (g, { x, w_, b_ }) => conv(g, x!, w_!, b_!),
  linear: (g, { x, w_, b_ }) => add(g, matmul(g, x!, w_!, { transB: true }), b_!),
  lora_linear: (g, { x, w_, down, up }, formula) => {
    const reduced = matmul(g, x!, down!, { transB: true });
    return add(
      g,
      matmul(g, x!, w_!, { transB: true }),
      scaled(g, matmul(g, reduced, up!, { transB: true }), numberIn(formula, FACTOR)),
    );
  },
  lora_conv3x3: (g, { x, down, up }, formula) => {
    const pads = numberIn(formula, /pad (\d+)/);
    return scaled(g, conv(g, conv(g, x!, down!, null, { pads }), up!, null), numberIn(formula, FACTOR));
  },
  group_norm: grouped,
  group_norm_eps6: grouped,
  layer_norm: (g, { x, w_, b_ }, formula) => layerNorm(g, x!, w_!, b_!, numberIn(formula, /eps=([\de.-]+)/)),
  silu: (g, { x }) => silu(g, x!),
  gelu: (g, { x }) => gelu(g, x!),
  // ½ x (1 + tanh z) = x σ(2z), z = √(2/π) (x + 0.044715 x³)
  gelu_tanh: (g, { x }) => {
    const cubic = add(g, x!, scaled(g, mul(g, mul(g, x!, x!), x!), 0.044715));
    return mul(g, x!, sigmoid(g, scaled(g, cubic, 2 * Math.sqrt(2 / Math.PI))));
  },
  // 1.702 is part of the operator.
  quick_gelu: (g, { x }) => quickGelu(g, x!),
  geglu: (g, { x }) => {
    const half = x!.shape.at(-1)! / 2;
    const [value, gate] = split(g, x!, [half, half], -1);
    return mul(g, value!, gelu(g, gate!));
  },
  softmax: (g, { x }) => softmax(g, x!),
  attention: attention(false),
  attention_causal: attention(true),
  upsample_nearest2x: (g, { x }, formula) => {
    const factor = numberIn(formula, /factor (\d+)/);
    return resizeNearest(g, x!, factor * x!.shape[2]!, factor * x!.shape[3]!);
  },
  concat_channels: (g, { a, c }, formula) => concat(g, [a!, c!], numberIn(formula, /axis (\d+)/)),
  embedding: (g, { table }, formula) => {
    const rows = JSON.parse(/\[\[.*\]\]/.exec(formula)![0]) as number[][];
    return gather(g, table!, g.constant(int64([rows.length, rows[0]!.length], rows.flat())));
  },
  masked_mse: (g, { x, target, mask }) => {
    const difference = sub(g, x!, target!);
    const weighted = mul(g, mul(g, difference, difference), mask!);
    const rows = div(g, reduceSum(g, weighted, [1, 2, 3], false), reduceSum(g, mask!, [1, 2, 3], false));
    return reduceMean(g, rows, [0]);
  },
};

let file: TensorFile;
beforeAll(async () => {
  file = await openTensorFile(goldenPath(FOLDER, 'ops.safetensors'));
});

const stored = (name: string): Tensor<Float64Array> => {
  const raw = file.tensors.get(name);
  if (raw === undefined) throw new Error(`${file.path} has no ${name}`);
  return float64(raw.shape, readFloat64(raw));
};

/** The operation and its gradients as one graph, inputs in `dtype`. */
function graphOf(op: string, dtype: 'float32' | 'float64') {
  const g = new GraphBuilder();
  const feeds: Record<string, Tensor> = {};
  const input = (name: string, tensor: Tensor<Float64Array>): Value => {
    feeds[name] = dtype === 'float64' ? tensor : float32(tensor.shape, Float32Array.from(tensor.data));
    return g.input(name, dtype, tensor.shape);
  };
  // Inputs are `in.*`; what is not differentiated (masks, targets) stands beside them under its own name.
  const inputs: Record<string, Value> = {};
  for (const full of file.tensors.keys()) {
    if (!full.startsWith(`${op}|`) || /\|(out|upstream|grad\..*)$/.test(full)) continue;
    const name = full.slice(op.length + 1).replace(/^in\./, '');
    inputs[name] = input(name, stored(full));
  }
  const out = writers[op]!(g, inputs, index[op]!.formula);
  g.output('out', out);
  const wanted = Object.keys(inputs).filter((name) => file.tensors.has(`${op}|grad.${name}`));
  const upstream = stored(`${op}|upstream`);
  const found = gradients(
    g,
    new Map([[out, input('upstream', float64(out.shape, upstream.data))]]),
    wanted.map((name) => inputs[name]!),
  );
  for (const name of wanted) g.output(`grad.${name}`, found.get(inputs[name]!)!);
  return { graph: pruned(g.finish()), feeds };
}

describe('single operations', () => {
  it.each(Object.keys(index))('%s', async (op) => {
    expect(Object.keys(writers)).toContain(op);
    const double = graphOf(op, 'float64');
    const exact = interpret(double.graph, double.feeds);
    expect(Object.keys(exact).length).toBeGreaterThan(1);
    for (const [name, { data }] of Object.entries(exact)) {
      expect(relativeError(data as Float64Array, stored(`${op}|${name}`).data), name).toBeLessThan(1e-10);
    }
    const single = graphOf(op, 'float32');
    const session = await defaultRuntime().load(single.graph, 'every-step');
    const fast = await session.run(single.feeds);
    await session.dispose();
    for (const [name, { data }] of Object.entries(fast)) {
      expect(relativeError(data as Float32Array, stored(`${op}|${name}`).data), name).toBeLessThan(2e-6);
    }
  });
});
