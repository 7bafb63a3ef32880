/** In which order a graph's nodes are written, and which node has a cast of its own. */
import { expect, it } from 'vitest';
import { memoryTensor } from '../../../src/formats/raw-tensor.ts';
import { GraphBuilder } from '../../../src/graph/builder.ts';
import { add, mul } from '../../../src/graph/ops/elementwise.ts';
import { withCastsFirst } from '../../../src/runtime/onnxruntime/widened-weights.ts';

it('gives every node that reads a weight one cast, and results the first one', () => {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [2]);
  const weight = g.weight(memoryTensor('w', 'F16', [2], new Uint8Array(4)));
  const first = mul(g, x, weight);
  g.output('y', add(g, add(g, first, weight), mul(g, weight, weight)));
  g.output('w', weight);
  const graph = g.finish();
  const once = withCastsFirst(graph, { anew: false });
  expect(once.map(({ op }) => op)).toEqual(['Cast', 'Mul', 'Add', 'Mul', 'Add']);
  const anew = withCastsFirst(graph, { anew: true });
  expect(anew.map(({ op }) => op)).toEqual([...Array<string>(4).fill('Cast'), 'Mul', 'Add', 'Mul', 'Add']);
  const [kept, ...own] = anew.filter(({ op }) => op === 'Cast').map(({ outputs }) => outputs[0]!.name);
  expect(kept).toBe(weight.name);
  const read = anew.filter(({ op }) => op !== 'Cast').map(({ inputs }) => inputs.map((value) => value!.name));
  expect(read.slice(0, 3)).toEqual([
    [x.name, own[0]],
    [first.name, own[1]],
    [own[2], own[2]],
  ]);
});
