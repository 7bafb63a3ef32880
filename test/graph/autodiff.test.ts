/** Every gradient rule along random directions, and the reverse pass around them. */
import { describe, expect, it } from 'vitest';
import { NoGradientError } from '../../src/errors.ts';
import { gradients } from '../../src/graph/autodiff.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import type { OpType } from '../../src/graph/op-types.ts';
import { multiHeadAttention } from '../../src/graph/ops/attention.ts';
import { conv, resizeNearest } from '../../src/graph/ops/convolution.ts';
import * as elementwise from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import * as movement from '../../src/graph/ops/movement.ts';
import { groupNorm, layerNorm, softmax } from '../../src/graph/ops/normalization.ts';
import { reduceMax, reduceMean, reduceSum } from '../../src/graph/ops/reduction.ts';
import { printGraph } from '../../src/graph/print.ts';
import { pruned } from '../../src/graph/prune.ts';
import { recompute } from '../../src/graph/recompute.ts';
import type { Value } from '../../src/graph/value.ts';
import { attentionVjp } from '../../src/graph/vjp/attention.ts';
import { scaled } from '../../src/graph/vjp/rule.ts';
import { type VjpTable, vjps } from '../../src/graph/vjp/rules.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, float64, int64, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';
import { relativeError } from '../support/close.ts';
import { gradcheck, normals, type Write } from '../support/gradcheck.ts';

const TOLERANCE = 1e-9;

interface Case {
  readonly op: OpType;
  readonly name?: string;
  readonly write: Write;
  readonly inputs: readonly Tensor<Float64Array>[];
  readonly fixed?: readonly Tensor[];
}

const n = normals;
const positive = (shape: readonly number[], seed: number): Tensor<Float64Array> =>
  float64(
    shape,
    normals(shape, seed).data.map((x) => 1 + Math.abs(x)),
  );
const image = n([2, 4, 5, 7], 1);
const weight = n([3, 4, 3, 3], 2);
/** Distinct numbers far apart: the largest stays the largest. */
const spread = float64([3, 4], [0, 5, 1, 7, 9, 2, 8, 3, 4, 11, 6, 10]);

const cases: readonly Case[] = [
  { op: 'Add', write: (g, a, b) => elementwise.add(g, a!, b!), inputs: [n([2, 3, 4], 1), n([3, 1], 2)] },
  { op: 'Sub', write: (g, a, b) => elementwise.sub(g, a!, b!), inputs: [n([3, 1], 1), n([2, 3, 4], 2)] },
  { op: 'Mul', write: (g, a, b) => elementwise.mul(g, a!, b!), inputs: [n([2, 3, 4], 1), n([3, 1], 2)] },
  { op: 'Div', write: (g, a, b) => elementwise.div(g, a!, b!), inputs: [n([2, 1], 1), positive([1, 3], 2)] },
  { op: 'Sqrt', write: (g, x) => elementwise.sqrt(g, x!), inputs: [positive([2, 3], 1)] },
  { op: 'Exp', write: (g, x) => elementwise.exp(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'Sin', write: (g, x) => elementwise.sin(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'Cos', write: (g, x) => elementwise.cos(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'Sigmoid', write: (g, x) => elementwise.sigmoid(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'Erf', write: (g, x) => elementwise.erf(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'QuickGelu', write: (g, x) => elementwise.quickGelu(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'QuickGelu', name: 'SiLU', write: (g, x) => elementwise.silu(g, x!), inputs: [n([2, 3], 1)] },
  { op: 'Gelu', write: (g, x) => elementwise.gelu(g, x!), inputs: [n([2, 3], 1)] },
  {
    op: 'Cast',
    write: (g, x) => elementwise.cast(g, elementwise.mul(g, x!, x!), 'float64'),
    inputs: [n([2, 3], 1)],
  },
  {
    op: 'StopGradient',
    name: 'lets the other path through',
    write: (g, x) => elementwise.add(g, x!, elementwise.stopGradient(g, elementwise.sub(g, x!, x!))),
    inputs: [n([2, 3], 1)],
  },
  ...[false, true].flatMap((transA) =>
    [false, true].map(
      (transB): Case => ({
        op: 'FusedMatMul',
        name: `transA ${transA}, transB ${transB}`,
        write: (g, a, b) => matmul(g, a!, b!, { transA, transB, alpha: 0.7 }),
        inputs: [n(transA ? [2, 4, 3] : [2, 3, 4], 1), n(transB ? [5, 4] : [4, 5], 2)],
      }),
    ),
  ),
  {
    op: 'FusedMatMul',
    name: 'broadcast leading axes',
    write: (g, a, b) => matmul(g, a!, b!, { transB: true }),
    inputs: [n([2, 1, 3, 4], 1), n([5, 2, 4], 2)],
  },
  {
    op: 'Conv',
    write: (g, x, w, b) => conv(g, x!, w!, b!, { pads: 1 }),
    inputs: [image, weight, n([3], 3)],
  },
  {
    op: 'Conv',
    name: 'stride 2, odd and even',
    write: (g, x, w) => conv(g, x!, w!, null, { stride: 2, pads: 1 }),
    inputs: [n([2, 4, 5, 6], 1), weight],
  },
  {
    op: 'Conv',
    name: 'stride 2, one-sided padding',
    write: (g, x, w) => conv(g, x!, w!, null, { stride: 2, pads: [0, 0, 1, 1] }),
    inputs: [n([2, 4, 6, 7], 1), weight],
  },
  {
    op: 'ConvTranspose',
    write: (g, x, w) =>
      g.node('ConvTranspose', [x!, w!], { strides: [2, 2], pads: [1, 1, 1, 1], height: 6, width: 5 })[0]!,
    inputs: [n([2, 3, 3, 3], 1), weight],
  },
  { op: 'Resize', write: (g, x) => resizeNearest(g, x!, 10, 14), inputs: [image] },
  { op: 'Resize', name: 'odd ratio', write: (g, x) => resizeNearest(g, x!, 9, 11), inputs: [image] },
  {
    op: 'LayerNormalization',
    write: (g, x, w, b) => layerNorm(g, x!, w!, b!),
    inputs: [n([2, 3, 5], 1), n([5], 2), n([5], 3)],
  },
  {
    op: 'GroupNormalization',
    write: (g, x, w, b) => groupNorm(g, x!, w!, b!, { groups: 2, epsilon: 1e-3 }),
    inputs: [image, n([4], 2), n([4], 3)],
  },
  { op: 'Softmax', write: (g, x) => softmax(g, x!, 1), inputs: [n([2, 3, 4], 1)] },
  {
    op: 'MultiHeadAttention',
    write: (g, q, k, v) => multiHeadAttention(g, { q: q!, k: k!, v: v! }, 2),
    inputs: [n([2, 5, 6], 1), n([2, 4, 6], 2), n([2, 4, 8], 3)],
  },
  {
    op: 'MultiHeadAttention',
    name: 'with a shared bias',
    write: (g, q, k, v, bias) => multiHeadAttention(g, { q: q!, k: k!, v: v!, bias: bias! }, 3),
    inputs: [n([2, 5, 6], 1), n([2, 4, 6], 2), n([2, 4, 6], 3), n([1, 1, 5, 4], 4)],
  },
  { op: 'Reshape', write: (g, x) => movement.reshape(g, x!, [6, 4]), inputs: [n([2, 3, 4], 1)] },
  { op: 'Transpose', write: (g, x) => movement.transpose(g, x!, [2, 0, 1]), inputs: [n([2, 3, 4], 1)] },
  { op: 'Concat', write: (g, a, b) => movement.concat(g, [a!, b!], 1), inputs: [n([2, 3], 1), n([2, 2], 2)] },
  { op: 'Split', write: (g, x) => movement.split(g, x!, [1, 3], -1), inputs: [n([2, 4], 1)] },
  {
    op: 'Split',
    name: 'one part unused',
    write: (g, x) => movement.split(g, x!, [1, 3], -1)[1]!,
    inputs: [n([2, 4], 1)],
  },
  { op: 'Slice', write: (g, x) => movement.slice(g, x!, -1, 1, 3), inputs: [n([2, 4], 1)] },
  {
    op: 'Gather',
    write: (g, x, i) => movement.gather(g, x!, i!, 0),
    inputs: [n([4, 3], 1)],
    fixed: [int64([2, 3], [1, 3, 3, 0, 1, 2])],
  },
  {
    op: 'Gather',
    name: 'inner axis',
    write: (g, x, i) => movement.gather(g, x!, i!, 1),
    inputs: [n([2, 4, 3], 1)],
    fixed: [int64([2, 2], [1, 3, 3, 0])],
  },
  {
    op: 'Gather',
    name: 'one index',
    write: (g, x, i) => movement.gather(g, x!, i!, 1),
    inputs: [n([2, 4, 3], 1)],
    fixed: [int64([], [2])],
  },
  {
    op: 'ScatterRows',
    write: (g, x, i) => movement.scatterRows(g, x!, i!, 4),
    inputs: [n([2, 3, 2], 1)],
    fixed: [int64([2, 3], [1, 3, 3, 0, 1, 2])],
  },
  { op: 'Expand', write: (g, x) => movement.expand(g, x!, [2, 3, 4]), inputs: [n([3, 1], 1)] },
  { op: 'ReduceSum', write: (g, x) => reduceSum(g, x!, [-1, 0]), inputs: [n([2, 3, 4], 1)] },
  { op: 'ReduceMean', write: (g, x) => reduceMean(g, x!, [1], false), inputs: [n([2, 3, 4], 1)] },
  { op: 'ReduceMax', write: (g, x) => reduceMax(g, x!, [1], false), inputs: [spread] },
];

describe('every rule agrees with the slope along random directions', () => {
  for (const { op, name, write, inputs, fixed = [] } of cases) {
    it(name === undefined ? op : `${op}: ${name}`, () => {
      // Squared once more, so that a rule that ignores what enters it is found out.
      const squared: Write = (g, ...values) => {
        const results = write(g, ...values);
        return (Array.isArray(results) ? (results as Value[]) : [results as Value]).map((y) =>
          elementwise.mul(g, y, y),
        );
      };
      expect(gradcheck(squared, inputs, { fixed })).toBeLessThan(TOLERANCE);
    });
  }

  it('MultiHeadAttention: some heads, or some queries, at a time', () => {
    for (const scoresAtOnce of [1, 2 * 4 * 3, 2 * 5 * 4 * 2]) {
      const rules = { ...vjps, MultiHeadAttention: attentionVjp(scoresAtOnce) } as VjpTable;
      const write: Write = (g, q, k, v) => multiHeadAttention(g, { q: q!, k: k!, v: v! }, 3);
      const inputs = [n([2, 5, 6], 1), n([2, 4, 6], 2), n([2, 4, 9], 3)];
      expect(gradcheck(write, inputs, { rules })).toBeLessThan(TOLERANCE);
      // Values alone, as where queries and keys are frozen.
      const frozen: Write = (g, v) =>
        write(g, g.constant(n([2, 5, 6], 1)), g.constant(n([2, 4, 6], 2)), v!) as Value;
      expect(gradcheck(frozen, inputs.slice(2), { rules })).toBeLessThan(TOLERANCE);
    }
  });

  it('leaves no operator out', () => {
    const listed = Object.keys(vjps).filter((op) => 'noGradient' in vjps[op as OpType]);
    const tested = new Set<string>(cases.map(({ op }) => op));
    expect(Object.keys(vjps).filter((op) => !tested.has(op))).toEqual(listed);
  });

  it('finds a rule that is wrong on purpose', () => {
    const wrong = {
      ...vjps,
      Softmax: (g, node, dys) => [elementwise.mul(g, node.outputs[0]!, dys[0]!)],
    } as VjpTable;
    const slightly = {
      ...vjps,
      Sin: (g, node, dys) => [
        scaled(g, elementwise.mul(g, dys[0]!, elementwise.cos(g, node.inputs[0]!)), 1.001),
      ],
    } as VjpTable;
    expect(gradcheck((g, x) => softmax(g, x!), [n([2, 3], 1)], { rules: wrong })).toBeGreaterThan(1e-2);
    expect(gradcheck((g, x) => elementwise.sin(g, x!), [n([5], 1)], { rules: slightly })).toBeGreaterThan(
      5e-4,
    );
  });
});

/** SiLU(x wᵀ) twice with a residual, and its sum of squares: something with blocks. */
function residualNet(g: GraphBuilder): { x: Value; weights: Value[]; loss: Value } {
  const x = g.input('x', 'float32', [5, 6]);
  const weights = [g.input('w0', 'float32', [6, 6]), g.input('w1', 'float32', [6, 6])];
  let hidden = x;
  weights.forEach((w, i) => {
    hidden = g.scope(`block${i}`, () =>
      elementwise.add(g, hidden, elementwise.silu(g, matmul(g, hidden, w, { transB: true }))),
    );
  });
  return { x, weights, loss: reduceSum(g, elementwise.mul(g, hidden, hidden), [0, 1], false) };
}
const feeds = {
  x: float32([5, 6], Float32Array.from(n([5, 6], 1).data)),
  w0: float32([6, 6], Float32Array.from(n([6, 6], 2).data)),
  w1: float32([6, 6], Float32Array.from(n([6, 6], 3).data)),
};
const one = (g: GraphBuilder): Value => g.constant(float32([], [1]));

describe('recomputation', () => {
  it('ties each wanted value that enters a block to its gradient, once, and leaves weights as they are', () => {
    const g = new GraphBuilder();
    const [x, w, other] = ['x', 'w', 'other'].map((name) => g.input(name, 'float32', [4, 4]));
    const before = g.nodes.length;
    const hidden = matmul(g, x!, w!);
    const bent = elementwise.silu(g, hidden);
    const joined = elementwise.add(g, bent, x!);
    // Of weights alone: nothing that is wanted changes it.
    const constant = elementwise.mul(g, w!, other!);
    const result = elementwise.mul(g, joined, constant);
    const block = { nodes: g.nodes.slice(before) };
    const dy = g.input('dy', 'float32', [4, 4]);
    const live = new Set([x!, hidden, bent, joined, result]);
    const start = g.nodes.length;
    const copies = recompute(g, block, live, dy);
    const added = g.nodes.slice(start);
    expect([...copies.keys()]).toEqual([...live].slice(1));
    const producer = new Map(added.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
    const inputsOf = (value: typeof hidden) => producer.get(copies.get(value)!)!.inputs;
    // x comes in through one Add, whose other side comes from dy; both of its readers share it.
    const [tied, weight] = inputsOf(hidden);
    expect(weight).toBe(w);
    expect(producer.get(tied!)).toMatchObject({ op: 'Add', inputs: [x, expect.anything()] });
    expect(inputsOf(joined)[1]).toBe(tied);
    expect(added.filter(({ op, inputs }) => op === 'Add' && inputs.includes(x!))).toHaveLength(1);
    // Inside, copies read copies, and what is not wanted is kept.
    expect(inputsOf(bent)[0]).toBe(copies.get(hidden));
    expect(inputsOf(joined)[0]).toBe(copies.get(bent));
    expect(inputsOf(result)).toEqual([copies.get(joined), constant]);
    expect(copies.has(constant)).toBe(false);
  });
});

describe('the reverse pass', () => {
  it('differentiates only what is asked for', () => {
    const g = new GraphBuilder();
    const { weights, loss } = residualNet(g);
    const before = g.nodes.length;
    g.output('d', gradients(g, new Map([[loss, one(g)]]), [weights[1]!]).get(weights[1]!)!);
    const added = g.nodes.slice(before);
    expect(added.some(({ name }) => name.startsWith('gradient/block0'))).toBe(false);
    expect(added.filter(({ op }) => op === 'FusedMatMul')).toHaveLength(1);
  });

  it('continues a finished graph', () => {
    const first = new GraphBuilder();
    const { weights, loss } = residualNet(first);
    first.output('loss', loss);
    const g = GraphBuilder.continuing(first.finish());
    g.output('d', gradients(g, new Map([[loss, one(g)]]), weights).get(weights[0]!)!);
    const out = interpret(pruned(g.finish()), feeds);
    expect(out.d!.shape).toEqual([6, 6]);
    expect(first.finish().outputs.has('d')).toBe(false);
  });

  it('prints as text', () => {
    const g = new GraphBuilder();
    const x = g.input('x', 'float32', [2, 3]);
    const w = g.input('w', 'float32', [4, 3]);
    const y = g.scope('layer', () => matmul(g, x, w, { transB: true }));
    g.output('dw', gradients(g, new Map([[y, g.input('dy', 'float32', [2, 4])]]), [w]).get(w)!);
    expect(printGraph(g.finish())).toMatchInlineSnapshot(`
      "input x: float32[2, 3]
      input w: float32[4, 3]
      input dy: float32[2, 4]
      # layer
      FusedMatMul_0 = FusedMatMul(x, w) {transA: false, transB: true, alpha: 1}: float32[2, 4]
      # gradient/layer/FusedMatMul_0
      FusedMatMul_1 = FusedMatMul(dy, x) {transA: true, transB: false, alpha: 1}: float32[4, 3]
      output dw = FusedMatMul_1: float32[4, 3]"
    `);
  });

  it('says when there is no gradient', () => {
    const g = new GraphBuilder();
    const x = g.input('x', 'float32', [2]);
    const step = elementwise.cast(g, elementwise.equal(g, x, g.scalar(0)), 'float32');
    const seed = g.constant(float32([2], [1, 1]));
    expect(() => gradients(g, new Map([[step, seed]]), [x])).toThrow(NoGradientError);
    const other = g.input('other', 'float32', [2]);
    expect(() => gradients(g, new Map([[elementwise.exp(g, x), seed]]), [other])).toThrow(
      /other: no result depends on it/,
    );
  });

  it('gives the same gradients when blocks are recomputed, in the runtime too', async () => {
    const run = async (blockOf?: (name: string) => string | null) => {
      const g = new GraphBuilder();
      const { x, weights, loss } = residualNet(g);
      const options = blockOf === undefined ? {} : { blockOf: ({ name }: { name: string }) => blockOf(name) };
      const wanted = [x, ...weights];
      const found = gradients(g, new Map([[loss, one(g)]]), wanted, options);
      g.output('loss', loss);
      wanted.forEach((value) => {
        g.output(`d${value.name}`, found.get(value)!);
      });
      const graph = pruned(g.finish());
      const session = await defaultRuntime().load(graph, 'every-step');
      const out = await session.run(feeds);
      await session.dispose();
      return {
        out,
        slow: interpret(graph, feeds),
        products: graph.nodes.filter(({ op }) => op === 'FusedMatMul').length,
      };
    };
    const kept = await run();
    const again = await run((name) => /^block\d/.exec(name)?.[0] ?? null);
    // The product before each activation is written a second time; the sums after it are not needed again.
    expect(again.products).toBe(kept.products + 2);
    for (const name of Object.keys(kept.out)) {
      const expected = kept.slow[name]!.data as Float32Array;
      expect(sizeOf(kept.out[name]!.shape)).toBe(expected.length);
      expect(relativeError(kept.out[name]!.data as Float32Array, expected)).toBeLessThan(1e-6);
      expect(relativeError(again.out[name]!.data as Float32Array, expected)).toBeLessThan(1e-6);
      expect(relativeError(again.slow[name]!.data as Float32Array, expected)).toBeLessThan(1e-6);
    }
  });
});
