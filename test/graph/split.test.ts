import { describe, expect, it } from 'vitest';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { memoryTensor } from '../../src/formats/raw-tensor.ts';
import { gradients } from '../../src/graph/autodiff.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { mul, sigmoid } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { GraphSession } from '../../src/graph/session.ts';
import { keptName, splitGraph } from '../../src/graph/split.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { relativeError } from '../support/close.ts';

const feeds = {
  x: float32([2, 3], [1, -2, 0.5, 3, 1, -1]),
  scale: float32([1, 3], [2, 0.5, 1]),
  d: float32([2, 3], [1, 2, -1, 0, 1, 3]),
};

/** y = σ(x W) · scale with a half-width W, and the gradient of x; the seed is an input of its own. */
function whole() {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [2, 3]);
  const scale = g.input('scale', 'float32', [1, 3]);
  const data = encodeFloat(Float32Array.of(1, -2, 0.5, 3, 4, -0.25, 1, 0, 2), 'F16');
  const y = mul(g, sigmoid(g, matmul(g, x, g.weight(memoryTensor('w', 'F16', [3, 3], data)))), scale);
  g.output('y', y);
  const d = g.input('d', 'float32', [2, 3]);
  g.output('dx', gradients(g, new Map([[y, d]]), [x]).get(x)!);
  return g.finish();
}

describe('a split graph', () => {
  const graph = whole();
  const { first, second, kept } = splitGraph(graph, new Set(['y']));
  const some = (names: readonly string[], from: Readonly<Record<string, Tensor>>) =>
    Object.fromEntries(names.map((name) => [name, from[name]!]));
  const floats = (tensor: Tensor): Float32Array => tensor.data as Float32Array;

  it('computes what the whole does, one half after the other', async () => {
    const expected = interpret(graph, feeds);
    for (const run of [
      interpret,
      async (half: typeof graph, given: Readonly<Record<string, Tensor>>) => {
        const session = await GraphSession.create(half);
        const results = await session.run(given);
        await session.dispose();
        return results;
      },
    ]) {
      const early = await run(first, some(['x', 'scale'], feeds));
      expect(relativeError(floats(early.y!), floats(expected.y!))).toBeLessThan(1e-6);
      const passed = Object.fromEntries(kept.map((value) => [value.name, early[keptName(value)]!]));
      const late = await run(second, { ...some(['scale', 'd'], feeds), ...passed });
      expect(relativeError(floats(late.dx!), floats(expected.dx!))).toBeLessThan(1e-6);
    }
  });

  it('does no fed node twice, and keeps no weight', () => {
    const firstNames = new Set(first.nodes.map(({ name }) => name));
    expect(second.nodes.filter(({ name }) => firstNames.has(name)).map(({ op }) => op)).toEqual(['Cast']);
    expect(kept.map(({ name }) => name)).toEqual([expect.stringContaining('Sigmoid')]);
  });

  it('has only inputs that each half needs', () => {
    expect(first.inputs.map(({ name }) => name)).toEqual(['x', 'scale']);
    expect(second.inputs.map(({ name }) => name)).toEqual(['scale', 'd', ...kept.map(({ name }) => name)]);
    expect([...second.outputs.keys()]).toEqual(['dx']);
  });
});
