import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parsePromptWeights } from '../../src/sampling/prompt-weights.ts';

describe('prompt weights', () => {
  it.each([
    ['a red hat', [['a red hat', 1]]],
    [
      'a (red:1.3) hat',
      [
        ['a ', 1],
        ['red', 1.3],
        [' hat', 1],
      ],
    ],
    [
      '(a (b:2) c:0.5)',
      [
        ['a ', 0.5],
        ['b', 1],
        [' c', 0.5],
      ],
    ],
    ['a (plain) one', [['a (plain) one', 1]]],
    [String.raw`a \(b:2\)`, [['a (b:2)', 1]]],
    ['ratio 16:9 (x', [['ratio 16:9 (x', 1]]],
    ['(time 12:30 :1.2)', [['time 12:30 ', 1.2]]],
    ['', [['', 1]]],
  ] as [string, [string, number][]][])('%s', (prompt, pieces) => {
    expect(parsePromptWeights(prompt).map(({ text, weight }) => [text, weight])).toEqual(pieces);
  });

  it('leaves prompts without numbers in parentheses as they are', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z ()<>]*$/), (prompt) => {
        expect(parsePromptWeights(prompt)).toEqual([{ text: prompt, weight: 1 }]);
      }),
    );
  });

  it.each([
    ['parentheses', '('.repeat(100_000)],
    ['parentheses that close', '('.repeat(50_000) + ')'.repeat(50_000)],
    ['digits', `(a:${'1'.repeat(100_000)}x)`],
    ['colons', `(${':'.repeat(100_000)})`],
    ['blanks', `(a:${' '.repeat(100_000)}x)`],
  ])('takes time in proportion to %s', (_, prompt) => {
    const start = performance.now();
    expect(parsePromptWeights(prompt)).toEqual([{ text: prompt, weight: 1 }]);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('takes any depth of nesting, and refuses a product that cannot be meant', () => {
    const nested = (weight: string) => `${'('.repeat(8000)}a${`:${weight})`.repeat(8000)}`;
    expect(parsePromptWeights(nested('1'))).toEqual([{ text: 'a', weight: 1 }]);
    expect(() => parsePromptWeights(nested('2'))).toThrow(/a product of -1000 … 1000, got 1024/);
  });

  it('refuses weights that cannot be meant', () => {
    expect(() => parsePromptWeights('(a:100)')).toThrow(/-10 … 10, got 100/);
  });
});
