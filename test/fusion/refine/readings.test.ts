/** What captions teach, how much of a refinement one pass takes, and at which size it draws. */
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { fuse } from '../../../src/fusion/fuse.ts';
import { captionTeacher, type ModelReading, refineOptionsFor } from '../../../src/fusion/refine/readings.ts';
import { Rollouts } from '../../../src/fusion/refine/refine-states.ts';
import { openCheckpoint } from '../../../src/models/checkpoint.ts';
import { vaeFactor } from '../../../src/models/vae/config.ts';
import { defaultBase, packageRoot } from '../../../src/package-root.ts';
import { type SmallFusion, smallFusion } from '../../support/small-fusion.ts';

let small: SmallFusion;
beforeAll(async () => {
  small = await smallFusion();
});

describe('passes of a refinement', () => {
  it.each([
    ['the miniature, at its size', () => defaultBase(), 16, 4],
    ["SDXL's miniature, at its size", () => `${packageRoot()}/fixtures/tiny-world-xl/model`, 48, 4],
    ["the miniature at SD 1.5's numbers", () => defaultBase(), 203, 1],
  ])('of %s', async (_, folder, side, pictures) => {
    const base = await openCheckpoint(folder());
    const { picturesPerPass, recomputeBlocks } = refineOptionsFor(
      base,
      { height: side, width: side },
      { steps: 1 },
    );
    expect(picturesPerPass).toBe(pictures);
    expect(recomputeBlocks).toBe(pictures === 1);
  });
});

describe('what captions teach', () => {
  const reading = (name: string): ModelReading =>
    ({ deltas: new Map(), caption: async (text: string) => `${name}: ${text}` }) as unknown as ModelReading;

  it('is every one of 63 and the empty prompt, as each model reads it; one in five judges too', async () => {
    const captions = Array.from({ length: 63 }, (_, i) => `caption ${i}`);
    const { prompts, heldOut } = (await captionTeacher(reading('base'), reading('fused'), captions))!;
    const read = (text: string) => ({ own: `base: ${text}`, fused: `fused: ${text}` });
    expect(prompts).toEqual([...captions, ''].map(read));
    expect(heldOut).toEqual(captions.filter((_, i) => i % 5 === 0).map(read));
    const more = (await captionTeacher(reading('base'), reading('fused'), [...captions, 'one more']))!;
    expect(more.prompts).toHaveLength(64);
  });

  it('is nothing without captions', async () => {
    expect(await captionTeacher(reading('base'), reading('fused'), [])).toBeNull();
  });
});

describe('the size of a refinement', () => {
  it.each([
    ['by default the one that the base was trained at', null, [1, 1]],
    ['that of the pictures that features are collected of', [2, 1], [2, 1]],
  ])('is %s', async (_, given, [wide, high]) => {
    const { base, concepts } = small;
    const { sampleSize } = base.parts.unet.config;
    const side = sampleSize * vaeFactor((await base.parts.vae()).config);
    const size = given === null ? null : { width: given[0]! * side, height: given[1]! * side };
    const create = vi.spyOn(Rollouts, 'create').mockRejectedValue(new Error('seen'));
    try {
      const request = { base, concepts: [{ concept: await loadConcept(concepts.maple) }] };
      const options = {
        size,
        stages: ['cross'],
        promptTemplates: ['a {}'],
        steps: 1,
        runs: 1,
        refine: 1,
        guidanceScale: 2,
      } as const;
      await expect(fuse({ ...request, preserveCaptions: [], options })).rejects.toThrow('seen');
      expect(create.mock.calls[0]![2]).toMatchObject({
        latentWidth: wide! * sampleSize,
        latentHeight: high! * sampleSize,
      });
      // It compares at the guidance that features are collected with.
      expect(create.mock.calls[0]![4].unprompted).toBe(0.5);
    } finally {
      create.mockRestore();
    }
  });
});
