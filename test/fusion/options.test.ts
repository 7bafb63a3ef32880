/** Options of a fusion: each bound is allowed, what lies beyond is refused with both numbers. */
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { checkFusionOptions, DEFAULTS, type FusionOptions } from '../../src/fusion/options.ts';

const check = (own: Partial<FusionOptions>) => () => checkFusionOptions({ ...DEFAULTS, ...own });
const stages = (value: number | 'auto') => ({ text: 0, cross: 0, spatial: value });
const templates = (count: number, length: number) => Array<string>(count).fill('{}'.padEnd(length, 'x'));

describe('an option of a fusion', () => {
  it.each<[Partial<FusionOptions>, Partial<FusionOptions>, string]>([
    [
      { ridge: stages(0) },
      { ridge: stages(-1e-9) },
      'ridge spatial: expected a number ≥ 0 or auto, got -1e-9',
    ],
    [{ preserve: stages(1e9) }, { preserve: stages(Number.POSITIVE_INFINITY) }, 'preserve spatial: '],
    [
      { ridge: stages('auto'), statistics: 'own' },
      { ridge: stages('auto'), statistics: 'fused' },
      'ridge spatial: auto needs',
    ],
    [{ stages: ['text'] }, { stages: [] }, 'stages: expected at least one'],
    [{ rank: 1 }, { rank: 0 }, 'rank: expected a whole number from 1 to 65536, got 0'],
    [{ rank: 65_536 }, { rank: 65_537 }, 'got 65537'],
    [{ rank: null }, { rank: 1.5 }, 'got 1.5'],
    [{ rank: 'auto' }, { rank: Number.NaN }, 'got NaN'],
    [{ rankShare: 1 }, { rankShare: 1.01 }, 'rank share: expected a number above 0, up to 1, got 1.01'],
    [{ rankShare: 1e-9 }, { rankShare: 0 }, 'rank share: '],
    [{ refine: 0 }, { refine: -1 }, 'refine: expected a whole number from 0 to 1000000, got -1'],
    [{ refine: 1_000_000 }, { refine: 1_000_001 }, 'refine: '],
    [{ iterations: null }, { iterations: 0 }, 'iterations: expected a whole number from 1 to 1000000, got 0'],
    [{ iterations: 1_000_000 }, { iterations: 1_000_001 }, 'iterations: '],
    [{ steps: 1 }, { steps: 0 }, 'steps: expected a whole number from 1 to 1000, got 0'],
    [{ steps: 1000 }, { steps: 1001 }, 'steps: '],
    [{ runs: 1000 }, { runs: 1001 }, 'runs: expected a whole number from 1 to 1000, got 1001'],
    [{ runs: 1 }, { runs: 0 }, 'runs: '],
    [
      { guidanceScale: 1e4 },
      { guidanceScale: 10_001 },
      'guidance: expected a number from -10000 to 10000, got 10001',
    ],
    [{ contrast: -1e4 }, { contrast: -10_001 }, 'contrast: '],
    [{ seed: -3 }, { seed: 0.5 }, 'seed: expected an integer, got 0.5'],
    [
      { size: { width: 8, height: 4096 } },
      { size: { width: 7, height: 8 } },
      'width: expected a whole number from 8 to 4096, got 7',
    ],
    [{ size: null }, { size: { width: 8, height: 4097 } }, 'height: '],
    [{ promptTemplates: ['{}'] }, { promptTemplates: [] }, 'prompt templates: expected at least one'],
    [
      { promptTemplates: ['a {}', '{}'] },
      { promptTemplates: ['{}', 'a'] },
      'prompt templates: expected at least one',
    ],
    [
      { promptTemplates: templates(1000, 2) },
      { promptTemplates: templates(1001, 2) },
      'at most 1000 of 10000 characters, got 1001, the longest of 2',
    ],
    [
      { promptTemplates: templates(1, 10_000) },
      { promptTemplates: templates(1, 10_001) },
      'got 1, the longest of 10001',
    ],
  ])('may be %j and not %j', (fine, wrong, message) => {
    expect(check(fine)).not.toThrow();
    expect(check(wrong)).toThrow(UsageError);
    expect(check(wrong)).toThrow(message);
  });

  it('is as documented where nobody says anything', () => {
    expect(check({})).not.toThrow();
    // docs/fusion.md measures with these; features that are kept are found again by them.
    expect(DEFAULTS).toEqual({
      stages: ['text', 'cross', 'spatial'],
      method: 'normal',
      ridge: { text: 0.1, cross: 0.1, spatial: 0.01 },
      preserve: { text: 0.3, cross: 1, spatial: 0.02 },
      rank: null,
      rankShare: 0.99,
      refine: 0,
      iterations: null,
      steps: 20,
      seed: 0,
      promptTemplates: [
        'photo of a {}',
        '{}',
        'a {} beside a window',
        'a {} in the snow',
        'two people beside a {}',
        'a drawing of a {} at night',
        'a large {} in front of a red house',
        'a {} and a blue car',
      ],
      runs: 2,
      guidanceScale: 4,
      contrast: 2.5,
      size: null,
      statistics: 'own',
    });
  });
});
