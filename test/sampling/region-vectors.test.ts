/** In models that read a vector of each text too, a region is drawn by its own: what the context says reaches no region that way. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import type { Region } from '../../src/sampling/region.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { familiesPath } from '../support/goldens.ts';
import { randomChange } from '../support/random-change.ts';

let base: Checkpoint;
const pipelines: Pipeline[] = [];
beforeAll(async () => {
  base = await openCheckpoint(familiesPath('sdxl', 'model'));
});
afterAll(() => Promise.all(pipelines.map((pipeline) => pipeline.dispose())));

const box = (left: number, right: number): Region['shape'] => ({
  kind: 'box',
  box: { top: 0, left, bottom: 1, right },
});
const CAT = 'a photo of a cat';
const REQUEST = { width: 64, height: 64, steps: 2, guidanceScale: 3, seed: 3, negativePrompt: 'a bird' };

async function draw(parts: PipelineParts, request: object): Promise<Float32Array> {
  const pipeline = await Pipeline.create(base, parts);
  pipelines.push(pipeline);
  const [picture] = await pipeline.sample({ prompt: CAT, ...REQUEST, ...request });
  return picture!.latents.data;
}

const farthest = (a: Float32Array, b: Float32Array): number =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

describe('a region of SDXL', () => {
  it('over the whole picture is its prompt alone, whatever the context says', async () => {
    const concept = randomChange(base, 1);
    const alone = await draw({ deltas: concept }, {});
    const regions = [{ prompt: CAT, negativePrompt: 'a bird', shape: box(0, 1), concepts: [{ concept: 0 }] }];
    const placed = await draw({ placedDeltas: [concept] }, { prompt: 'a dog', concepts: [], regions });
    expect(placed).toBeAllClose(alone, { rtol: 0, atol: 1e-4 });
    expect(farthest(alone, await draw({}, {}))).toBeGreaterThan(0.01);
  });

  it('and another of the same text are one picture, weighted and under masks too', async () => {
    const concept = randomChange(base, 1);
    // Strengths that differ by too little to be seen keep the masks in use.
    const uses = [1, 1 + 1e-7].map((unetStrength) => [{ concept: 0, unetStrength }]);
    const regions = [box(0, 0.625), box(0.375, 1)].map((shape, i) => ({
      prompt: CAT,
      negativePrompt: 'a bird',
      weight: 1 + i,
      shape,
      concepts: uses[i],
    }));
    const placed = await draw({ placedDeltas: [concept] }, { prompt: 'a dog', concepts: [], regions });
    expect(placed).toBeAllClose(await draw({ deltas: concept }, {}), { rtol: 0, atol: 1e-4 });
  });
});
