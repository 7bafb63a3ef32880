/** Graphs in parts: what each holds, what is handed on, and that nothing is computed otherwise. */
import { beforeAll, describe, expect, it } from 'vitest';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { passedOutput, splitGraph, weightBytes } from '../../src/graph/split.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { goldenPath } from '../support/goldens.ts';

let graph: Graph;
beforeAll(async () => {
  const { weights, config } = (await openCheckpoint(goldenPath('goldens-fusion/fusion/base_model'))).parts
    .unet;
  const size = { batch: 2, latentHeight: 8, latentWidth: 8, tokens: 77 };
  const features = ['mid_block.attentions.0.transformer_blocks.0.attn1.to_q'];
  graph = buildUnet(weights, config, size, { probes: { features, inputs: features } }).graph;
});

const names = (values: Iterable<{ readonly name: string }>): string[] => [...values].map(({ name }) => name);

describe('splitting a graph', () => {
  it.each([1, 2, 3, 7])('into %d parts leaves every node and every output in one of them', (count) => {
    const parts = splitGraph(graph, count);
    expect(parts).toHaveLength(count);
    const casts = new Set(
      names(graph.nodes.filter(({ op, inputs }) => op === 'Cast' && isWeight(inputs[0]!))),
    );
    const written = parts.flatMap((part) => names(part.graph.nodes)).filter((name) => !casts.has(name));
    expect(written).toEqual(names(graph.nodes).filter((name) => !casts.has(name)));
    const outputs = parts.flatMap((part) => [...part.graph.outputs.keys()]);
    expect(outputs.filter((name) => !name.startsWith('passed:'))).toEqual([...graph.outputs.keys()]);
    expect(new Set(parts.flatMap((part) => names(part.graph.weights.map(({ value }) => value)))).size).toBe(
      graph.weights.length,
    );
  });

  it('gives each part about its share of the weights, and no more than it reads', () => {
    const share = weightBytes(graph) / 3;
    for (const { graph: part } of splitGraph(graph, 3)) {
      expect(weightBytes(part)).toBeGreaterThan(0.4 * share);
      expect(weightBytes(part)).toBeLessThan(1.6 * share);
      const read = new Set(part.nodes.flatMap(({ inputs }) => inputs));
      expect(part.inputs.filter((value) => !read.has(value))).toEqual([]);
    }
  });

  it('hands on what later parts read, and takes nothing that was not handed on', () => {
    const handed = new Set<string>();
    for (const { graph: part, taken, passed } of splitGraph(graph, 4)) {
      for (const { name } of taken) expect(handed).toContain(name);
      const given = [...names(graph.inputs), ...names(taken)];
      for (const { name } of part.inputs) expect(given).toContain(name);
      for (const value of passed) {
        expect(part.outputs.get(passedOutput(value))).toBe(value);
        handed.add(value.name);
      }
    }
  });

  it('is made where little is handed on', () => {
    const g = new GraphBuilder();
    // Ten weights of one size; behind every second one there are 4 numbers in place of 64.
    let x = g.input('x', 'float32', [1, 4]);
    for (let i = 0; i < 10; i++) {
      const shape = i % 2 === 0 ? [4, 64] : [64, 4];
      x = matmul(g, x, g.weight(float32Tensor(`w${i}`, shape, new Float32Array(256)), shape));
    }
    g.output('y', x);
    const [first] = splitGraph(g.finish(), 2);
    expect(first!.passed.map(({ shape }) => shape)).toEqual([[1, 4]]);
  });

  it('gives outputs that nobody computes to the last part', () => {
    const given = { ...graph, outputs: new Map([...graph.outputs, ['same', graph.inputs[0]!]]) };
    const parts = splitGraph(given, 3);
    expect(parts.map((part) => part.graph.outputs.has('same'))).toEqual([false, false, true]);
    expect(parts[2]!.graph.inputs).toContain(graph.inputs[0]);
  });
});

const isWeight = (value: object): boolean => graph.weights.some((weight) => weight.value === value);
