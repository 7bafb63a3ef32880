/** Recipes out of files: every field of another type, beyond its range or missing is named, never a TypeError. */
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { DEFAULTS } from '../../src/fusion/options.ts';
import { parseFusionRecipe } from '../../src/fusion/repeat.ts';

const FILE = { path: 'a.pth', sha256: 'a'.repeat(64) };
const RECIPE = {
  tool: 'edlora',
  kind: 'fusion',
  versions: { edlora: '0.1.0', node: '20.0.0', onnxruntime: '1.30.0' },
  base: { path: 'model', files: [FILE] },
  concepts: [
    {
      path: 'a.pth',
      name: '<a>',
      words: ['<a>'],
      unetStrength: 1,
      textEncoderStrength: 1,
      files: [FILE],
    },
  ],
  options: DEFAULTS,
  captions: ['a tree'],
  naming: 'kohya',
};
const parse = (value: unknown) => parseFusionRecipe('recipe.json', JSON.stringify(value));
const withOption = (name: string, value: unknown) => ({
  ...RECIPE,
  options: { ...DEFAULTS, [name]: value },
});

describe('a recipe', () => {
  it('is read as it was written; options that it lacks take their defaults', () => {
    expect(parse(RECIPE)).toEqual(RECIPE);
    const { contrast: _, ...fewer } = DEFAULTS;
    expect(parse({ ...RECIPE, options: fewer }).options).toEqual(DEFAULTS);
  });

  it.each([
    ['promptTemplates', [1], /options\.promptTemplates\.0: /],
    ['promptTemplates', null, /options\.promptTemplates: /],
    ['promptTemplates', Array(2000).fill('{}'), /prompt templates: expected at most 1000/],
    ['size', 'large', /options\.size: /],
    ['size', { width: 64 }, /options\.size\.height: /],
    ['size', { width: 1e9, height: 64 }, /width: expected a whole number from 8 to 4096, got 1000000000/],
    ['ridge', null, /options\.ridge: /],
    ['ridge', { text: 1, cross: 1 }, /options\.ridge\.spatial: /],
    ['ridge', { text: -1, cross: 1, spatial: 1 }, /ridge text: expected a number ≥ 0 or auto, got -1/],
    ['stages', 'text', /options\.stages: /],
    ['stages', ['text', 'txt'], /options\.stages\.1: /],
    ['method', 'magic', /options\.method: /],
    ['runs', 1e12, /runs: expected a whole number from 1 to 1000, got 1000000000000/],
    ['steps', '20', /options\.steps: /],
    ['contrast', 1e300, /contrast: expected a number from -10000 to 10000, got 1e\+300/],
    ['rank', 1e12, /rank: expected a whole number from 1 to 65536/],
    ['statistics', true, /options\.statistics: /],
    ['flavour', 1, /options: .*flavour/],
  ])('with %s %j is refused', (name, value, message) => {
    expect(() => parse(withOption(name, value))).toThrow(FormatError);
    expect(() => parse(withOption(name, value))).toThrow(message);
  });

  it.each([null, [], 'x', 1, {}, { ...RECIPE, concepts: {} }, { ...RECIPE, captions: [null] }])(
    'that is none (%j) is refused',
    (value) => {
      expect(() => parse(value)).toThrow(/^recipe\.json: expected the recipe of a fusion: /);
    },
  );
});
