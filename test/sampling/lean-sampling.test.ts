/** Pictures with weights of half width left as they are: the decoder does not share memory with the UNet, nor rows of a pass. */
import { afterAll, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { withLeanWeights } from '../../src/runtime/half-weights.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import type { Region } from '../../src/sampling/region.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { goldenPath } from '../support/goldens.ts';

/** Which networks are loaded, as they come and go: by their outputs. */
const events: string[] = [];
/** Rows of a run of the UNet. */
const rows: number[] = [];
const watched: Runtime = {
  traits: defaultRuntime().traits,
  upload: (tensor) => defaultRuntime().upload(tensor),
  dispose: async () => undefined,
  load: async (graph, use, settings) => {
    const name = [...graph.outputs.keys()].join();
    events.push(`load ${name}`);
    const loaded = await defaultRuntime().load(graph, use, settings);
    const prediction = graph.outputs.get('noise_pred');
    if (prediction !== undefined) rows.push(prediction.shape[0]!);
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

/** Up to rounding: one step of 256. */
function expectAlike(picture: Uint8Array, expected: Uint8Array): void {
  expect(Float32Array.from(picture)).toBeAllClose(Float32Array.from(expected), { rtol: 0, atol: 1 });
}

it('frees the UNet before it decodes, and draws the same pictures', async () => {
  const request = { prompt: 'a cat', width: 64, height: 64, steps: 2, guidanceScale: 3, count: 2, seed: 3 };
  const networks = () => events.splice(0).filter((event) => /noise_pred|image/.test(event));
  const plain = await pipeline.sample(request);
  expect(networks()).toEqual(['load noise_pred', 'load image']);
  const lean = await withLeanWeights(() => pipeline.sample(request));
  expect(networks()).toEqual([
    'free noise_pred',
    ...['load noise_pred', 'free noise_pred'],
    ...['load noise_pred', 'free noise_pred'],
  ]);
  expect(rows).toEqual([2, 1, 1]);
  lean.forEach(({ data }, i) => {
    expectAlike(data, plain[i]!.data);
  });
});

it('draws regions row by row as in one pass', async () => {
  const shape: Region['shape'] = { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 0.5 } };
  const regions: Region[] = [{ prompt: 'a dog', negativePrompt: 'a cat', shape }];
  const request = { prompt: 'a tree', regions, width: 64, height: 64, steps: 1, guidanceScale: 3, seed: 3 };
  const [plain] = await pipeline.sample(request);
  const [lean] = await withLeanWeights(() => pipeline.sample(request));
  expect(rows.slice(-2)).toEqual([2, 1]);
  expectAlike(lean!.data, plain!.data);
});
