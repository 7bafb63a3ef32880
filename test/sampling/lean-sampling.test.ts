/** Pictures with weights of half width left as they are: the decoder does not share memory with the UNet. */
import { afterAll, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { withLeanWeights } from '../../src/runtime/half-weights.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { goldenPath } from '../support/goldens.ts';

/** Which networks are loaded, as they come and go: by their outputs. */
const events: string[] = [];
const watched: Runtime = {
  traits: defaultRuntime().traits,
  upload: (tensor) => defaultRuntime().upload(tensor),
  dispose: async () => undefined,
  load: async (graph, use, settings) => {
    const name = [...graph.outputs.keys()].join();
    events.push(`load ${name}`);
    const loaded = await defaultRuntime().load(graph, use, settings);
    const dispose = async () => {
      events.push(`free ${name}`);
      await loaded.dispose();
    };
    return { run: (feeds, wanted, into) => loaded.run(feeds, wanted, into), dispose };
  },
};

const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
const pipeline = await Pipeline.create(base, { runtime: watched });
afterAll(() => pipeline.dispose());

it('frees the UNet before it decodes, and draws the same pictures', async () => {
  const request = { prompt: 'a cat', width: 64, height: 64, steps: 2, guidanceScale: 3, count: 2, seed: 3 };
  const networks = () => events.splice(0).filter((event) => /noise_pred|image/.test(event));
  const plain = await pipeline.sample(request);
  expect(networks()).toEqual(['load noise_pred', 'load image']);
  const lean = await withLeanWeights(() => pipeline.sample(request));
  expect(networks()).toEqual(['free noise_pred', 'load noise_pred', 'free noise_pred']);
  lean.forEach(({ data }, i) => {
    expect(data).toEqual(plain[i]!.data);
  });
});
