import { describe, expect, it } from 'vitest';
import { REFINE_DEFAULTS } from '../../../src/fusion/refine/refine-options.ts';
import { refineWork } from '../../../src/fusion/refine/refine-work.ts';

describe('the work of a refinement', () => {
  it.each([
    ['two concepts', 400, 2, 12_680, 6400],
    ['four concepts', 800, 4, 25_160, 12_880],
  ])('of %s and sixty captions in %i steps', (_, steps, concepts, guided, prompted) => {
    const prompts = [...Array<number>(concepts).fill(22), 60];
    const passes = (guidanceScale: number): number =>
      refineWork({ ...REFINE_DEFAULTS, steps, guidanceScale }, prompts, prompts.length).passes;
    expect(passes(4)).toBe(guided);
    // Without guidance nothing is predicted without a prompt.
    expect(passes(1)).toBe(prompted);
  });
});
