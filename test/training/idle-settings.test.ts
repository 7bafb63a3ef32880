/** Settings that change nothing beside the others are named, and only those. */
import { expect, it } from 'vitest';
import { idleSettingNotes } from '../../src/training/idle-settings.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { trainingSettings } from '../../src/training/train.ts';

const WORDS = { data: 'x', token: '<a>', init: 'circle' };

it.each<[string, Partial<TrainingInput>, string[]]>([
  ['a sample prompt and no samples', { samplePrompt: 'a <TOK>' }, ['samplePrompt']],
  ['a sample prompt and samples', { samplePrompt: 'a <TOK>', sampleEvery: 5 }, []],
  ['parts that nobody shuffles', { keepParts: 2 }, ['keepParts']],
  ['parts that are shuffled', { keepParts: 2, shuffleCaptions: true }, []],
  ['a bandwidth', { method: 'xti', kdeBandwidth: 1 }, ['kdeBandwidth']],
  ['a bandwidth and its weight', { method: 'xti', kdeBandwidth: 1, kdeWeight: 1 }, []],
  ['a mask rule', { fullIdentity: false }, ['fullIdentity']],
  ['a mask rule in use', { fullIdentity: false, attentionWeight: 1, token: '<a>+<b>', init: 'x+y' }, []],
  ['class pictures of no prior', { classImages: 5 }, ['classImages']],
  ['class pictures', { method: 'dreambooth-lora', classImages: 5, classPrompt: 'a' }, []],
  [
    'factors of words',
    { method: 'textual-inversion', rank: 4, alpha: 1, lrText: 1, lrUnet: 1 },
    ['alpha', 'lrText', 'lrUnet', 'rank'],
  ],
  [
    'factors of keys and values',
    { method: 'custom-diffusion', rank: 4, lrUnet: 1, layers: 'transformer', classPrompt: 'a' },
    ['layers', 'rank'],
  ],
  [
    'layers of networks that stay',
    { lrText: 0, lrUnet: 0, textLayers: 'transformer', layers: 'transformer' },
    ['layers', 'textLayers'],
  ],
  [
    'layers of networks that learn',
    { textLayers: 'transformer', layers: 'transformer', rank: 4, alpha: 1, lrText: 1, lrUnet: 1 },
    [],
  ],
])('%s', (_, given, idle) => {
  const { method, settings } = trainingSettings({ ...WORDS, ...given });
  const notes = idleSettingNotes(method, settings, Object.keys(given));
  expect(notes.map((note) => /^`(\w+)`/.exec(note)![1]!).sort()).toEqual(idle);
  expect(idleSettingNotes(method, settings, [])).toEqual([]);
});
