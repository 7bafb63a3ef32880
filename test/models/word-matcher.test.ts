import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PROMPT_WORDS, WordMatcher } from '../../src/models/clip/word-matcher.ts';

describe('WordMatcher', () => {
  it('finds what alternatives of a regular expression find, the longest first', () => {
    const word = fc.stringMatching(/^[abc.]{1,4}$/);
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), fc.stringMatching(/^[abc.x]{0,30}$/), (words, text) => {
        const sorted = [...words].sort((a, b) => b.length - a.length);
        const pattern = new RegExp(
          sorted.map((each) => each.replaceAll('.', '\\.')).join('|') || '(?!)',
          'gu',
        );
        const expected = [...text.matchAll(pattern)].map((match) => [match.index, match[0]]);
        expect(new WordMatcher(words).find(text).map(({ start, word: own }) => [start, own])).toEqual(
          expected,
        );
      }),
    );
  });

  it('compares characters as it is told', () => {
    const matcher = new WordMatcher(['<Émile>'], { fold: (char) => char.toLowerCase() });
    expect(matcher.find('x <éMILE>')).toEqual([{ start: 2, end: 9, word: '<Émile>' }]);
  });

  it.each([
    ['foo20 foo2', ['foo20', 'foo2']],
    ['foo201 xfoo2 foo2x foo2_1 éfoo2 foo2\u0301 foo2é', []],
    ["Foo2, (foo2:1.2) foo2's foo2-like foo2", ['foo2', 'foo2', 'foo2', 'foo2', 'foo2']],
    ['x<a>y <a>2', ['<a>', '<a>']],
    ['𝒳foo2 foo2𝒳 😀foo2😀', ['foo2']],
  ])('takes whole words of %s as prompts call them', (text, words) => {
    const matcher = new WordMatcher(['foo2', 'foo20', '<a>'], PROMPT_WORDS);
    expect(matcher.find(text).map(({ word }) => word)).toEqual(words);
  });

  it('takes thousands of words that begin alike', () => {
    const words = Array.from({ length: 50_000 }, (_, i) => `<new${i}>`);
    expect(new WordMatcher(words).find('<new<new49999>'.repeat(2000))).toHaveLength(2000);
  });
});
