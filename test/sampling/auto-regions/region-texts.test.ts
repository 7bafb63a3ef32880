import { expect, it } from 'vitest';
import { regionTexts } from '../../../src/sampling/auto-regions/region-texts.ts';

const CAT = ['<cat1>', '<cat2>'];
const DOG = ['<dog>'];

it.each([
  ['a <cat1> <cat2> and a <dog> on grass', ['a <cat1> <cat2> on grass', 'a <dog> on grass'], 'on grass'],
  ['photo of a <cat1> <cat2>, a <dog>', ['photo of a <cat1> <cat2>', 'photo of a <dog>'], 'photo of'],
  ['<CAT1> <cat2> beside the <dog>', ['<CAT1> <cat2>', 'the <dog>'], ''],
  ['a <dog> with a <cat1>  <cat2>', ['a <cat1> <cat2>', 'a <dog>'], ''],
  ['a red ball', ['a red ball', 'a red ball'], 'a red ball'],
])('%s: every concept has the prompt without the others', (prompt, regions, background) => {
  const texts = regionTexts(prompt, [CAT, DOG]);
  expect(texts.background).toBe(background);
  expect(texts.regions).toEqual(regions);
});

it('three concepts are cut out one by one, and a single one keeps the prompt', () => {
  const groups = [CAT, DOG, ['<owl>']];
  const { regions, background } = regionTexts('a <cat1> <cat2>, a <dog> and an <owl> in a wood', groups);
  expect(regions).toEqual(['a <cat1> <cat2> in a wood', 'a <dog> in a wood', 'an <owl> in a wood']);
  expect(background).toBe('in a wood');
  expect(regionTexts('a <dog> in a wood', [DOG])).toEqual({
    regions: ['a <dog> in a wood'],
    background: 'in a wood',
  });
});
