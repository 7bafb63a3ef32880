/** Options that change nothing beside the others are named, and only those. */
import { describe, expect, it } from 'vitest';
import { type GivenOption, idleOptionNotes } from '../../src/fusion/idle-options.ts';
import { DEFAULTS, type FusionOptions, PRESETS } from '../../src/fusion/options.ts';

const ALL: readonly GivenOption[] = [
  'contrast',
  'guidanceScale',
  'iterations',
  'preserve',
  'preserveCaptions',
  'rankShare',
  'ridge',
  'runs',
  'steps',
];
const NONE = { text: 0, cross: 0, spatial: 0 };

describe('options without effect', () => {
  it.each<[string, Partial<FusionOptions>, string[]]>([
    ['the defaults', {}, ['iterations', 'rankShare']],
    ['no guidance', { guidanceScale: 1 }, ['contrast', 'iterations', 'rankShare']],
    ['lbfgs and an automatic rank', { method: 'lbfgs', rank: 'auto' }, []],
    ['lbfgs and a rank', { method: 'lbfgs', rank: 4 }, ['rankShare']],
    ['nothing preserved', { preserve: NONE, rank: 'auto' }, ['iterations', 'preserveCaptions']],
    [
      'something preserved in a stage that is not fused',
      { preserve: { ...NONE, text: 1 }, stages: ['cross', 'spatial'], rank: 'auto' },
      ['iterations', 'preserveCaptions'],
    ],
    [
      'captions of a constrained solve',
      { preserve: NONE, method: 'custom-diffusion', rank: 'auto', stages: ['cross', 'spatial'] },
      ['iterations'],
    ],
    ['a sum', { method: 'sum', rank: 'auto' }, ['iterations', 'ridge', 'preserve']],
    [
      'no spatial stage',
      { stages: ['text', 'cross'], rank: 'auto', method: 'lbfgs' },
      ['steps', 'runs', 'guidanceScale'],
    ],
    [
      'no spatial stage, but distillation',
      { stages: ['text', 'cross'], rank: 'auto', method: 'lbfgs', refine: 5 },
      [],
    ],
    [
      'the published preset',
      PRESETS['mix-of-show'],
      ['contrast', 'iterations', 'preserveCaptions', 'rankShare'],
    ],
  ])('of %s', (_, options, idle) => {
    const notes = idleOptionNotes({ ...DEFAULTS, ...options }, ALL);
    const named = notes.map((note) => /^`(\w+)`/.exec(note)![1]);
    expect(named.sort()).toEqual([...idle].sort());
    expect(idleOptionNotes({ ...DEFAULTS, ...options }, [])).toEqual([]);
  });
});
