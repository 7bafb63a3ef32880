/** Networks of which one part at a time is in memory: the same numbers, and nothing that stays. */
import { describe, expect, it } from 'vitest';
import type { Graph } from '../../src/graph/graph.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { GraphInParts, type GraphInPartsOptions } from '../../src/runtime/graph-in-parts.ts';
import { withLeanWeights } from '../../src/runtime/half-weights.ts';
import type { LoadedGraph, Runtime } from '../../src/runtime/runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';

const PROBED = 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q';

async function unet(): Promise<Graph> {
  const { weights, config } = (await openCheckpoint(goldenPath('goldens-fusion/fusion/base_model'))).parts
    .unet;
  const size = { batch: 2, latentHeight: 8, latentWidth: 8, tokens: 7 };
  return buildUnet(weights, config, size, { probes: { inputs: [PROBED] } }).graph;
}

const feedsOf = ({ inputs }: Graph): Record<string, Tensor> =>
  Object.fromEntries(
    inputs.map(({ name, shape }, i) => [name, float32(shape, new TorchGenerator(i).randn(sizeOf(shape)))]),
  );

/** The runtime, and how many graphs it has loaded at a time and in all. */
function counting(): { runtime: Runtime; most: () => number; all: () => number } {
  let [now, most, all] = [0, 0, 0];
  const runtime: Runtime = {
    traits: defaultRuntime().traits,
    load: async (...args): Promise<LoadedGraph> => {
      const loaded = await defaultRuntime().load(...args);
      all++;
      most = Math.max(most, ++now);
      return {
        run: (...given) => loaded.run(...given),
        dispose: () => {
          now--;
          return loaded.dispose();
        },
      };
    },
    upload: (tensor) => defaultRuntime().upload(tensor),
    dispose: async () => undefined,
  };
  return { runtime, most: () => most, all: () => all };
}

async function outputs(graph: Graph, runtime: Runtime, options?: GraphInPartsOptions) {
  const network = new GraphInParts(graph, executionContext({ runtime }), options);
  const taken = new Map<string, Tensor>();
  for (let run = 0; run < 2; run++) {
    taken.clear();
    await network.run(feedsOf(graph), (name, tensor) => void taken.set(name, tensor));
  }
  await network.dispose();
  return taken;
}

describe('a network in parts', () => {
  it('gives what it gives as a whole, one part loaded at a time', async () => {
    const graph = await unet();
    const [whole, parts] = [counting(), counting()];
    const expected = await outputs(graph, whole.runtime);
    expect([whole.most(), whole.all()]).toEqual([1, 1]);
    const found = await outputs(graph, parts.runtime, { partBytes: 1e6 });
    expect(parts.most()).toBe(1);
    expect(parts.all()).toBeGreaterThan(4);
    expect([...found.keys()]).toEqual([...expected.keys()]);
    for (const [name, { data, shape }] of expected) {
      expect(found.get(name)!.shape).toEqual(shape);
      expect(found.get(name)!.data as Float32Array, name).toBeAllClose(data as Float32Array, { rtol: 1e-5 });
    }
  });

  it('is whole where it is small, with lean weights too', async () => {
    const lean = counting();
    await withLeanWeights(async () => outputs(await unet(), lean.runtime));
    expect(lean.all()).toBe(1);
  });

  it('refuses feeds that no part knows', async () => {
    const network = new GraphInParts(await unet(), executionContext(), { partBytes: 1e6 });
    const run = network.run({ ...feedsOf(await unet()), other: float32([1]) }, () => undefined);
    await expect(run).rejects.toThrow('input "other": the graph has no such input');
  });
});
