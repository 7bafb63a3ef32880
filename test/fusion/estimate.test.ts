/** What a fusion will take, told beforehand. */
import { expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { estimateFusion } from '../../src/fusion/estimate.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { type FuseRequest, planFusion } from '../../src/fusion/plan.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { describe as described } from '../../src/graph/value.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import type { GraphUse, RunSettings, Runtime } from '../../src/runtime/runtime.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/fusion';

/** Sizes of rows that a piece of work makes Gram matrices of: of all other rows it keeps the numbers. */
async function summedRows(work: (runtime: Runtime) => Promise<unknown>): Promise<string[]> {
  const seen: string[] = [];
  const runtime: Runtime = {
    ...defaultRuntime(),
    traits: { name: 'watched' },
    upload: (tensor) => defaultRuntime().upload(tensor),
    load: (graph: Graph, use: GraphUse, settings?: RunSettings) => {
      if (graph.outputs.has('gram')) seen.push(...graph.inputs.map(described));
      return defaultRuntime().load(graph, use, settings);
    },
  };
  await work(runtime);
  return seen.toSorted();
}

it('is measured on features in the forms that the collection keeps', async () => {
  const base = await openCheckpoint(goldenPath(FOLDER, 'base_model'));
  const concepts = [{ concept: await loadConcept(goldenPath(FOLDER, 'concepts', 'maple.pth')) }];
  const estimated = (options: FuseRequest['options']) =>
    summedRows(async (runtime) => {
      const request: FuseRequest = { base, concepts, runtime, options: { ...options, statistics: 'own' } };
      const { elapsedMs, passMs } = await estimateFusion(request, await planFusion(request));
      expect(elapsedMs).toBeGreaterThan(passMs!);
    });
  const options = { steps: 20, runs: 2 };
  const collected = await summedRows(async (runtime) => {
    const controller = new AbortController();
    const whole = fuse({
      ...{ base, concepts, runtime, options: { ...options, statistics: 'own' } },
      signal: controller.signal,
      onProgress: ({ stage }) => {
        if (stage === 'spatial') controller.abort(new Error('enough'));
      },
    });
    await expect(whole).rejects.toThrow('enough');
  });
  expect(await estimated(options)).toEqual(collected);
  // Two steps alone would keep rows of more layers.
  expect(await estimated({ steps: 2, runs: 1 })).not.toEqual(collected);
});
