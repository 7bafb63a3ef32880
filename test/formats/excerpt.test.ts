import { describe, expect, it } from 'vitest';
import { excerpt, jsonExcerpt, lengthExcerpt } from '../../src/formats/excerpt.ts';

describe('an excerpt', () => {
  it.each([
    ['', ''],
    ['x'.repeat(120), 'x'.repeat(120)],
    ['x'.repeat(121), `${'x'.repeat(119)}…`],
  ])('of "%s" has 120 characters at most', (text, expected) => {
    expect(excerpt(text)).toBe(expected);
  });

  it('has no half of a character', () => {
    expect(excerpt('ab😀cd', 4)).toBe('ab…');
    expect(excerpt('ab😀cd', 5)).toBe('ab😀…');
    expect(excerpt('ab😀', 4)).toBe('ab😀');
  });

  it.each([
    [undefined, 'nothing'],
    [null, 'null'],
    ['a "b"', '"a \\"b\\""'],
    ['x'.repeat(200), `"${'x'.repeat(119)}…"`],
    [[1, 2], 'a list of 2'],
    [{ a: 1 }, 'an object'],
    [0.5, '0.5'],
    [false, 'false'],
  ])('of the value %j is %s', (value, expected) => {
    expect(jsonExcerpt(value)).toBe(expected);
  });

  it('of a length is that of a text alone', () => {
    expect(lengthExcerpt('abc')).toBe('3');
    expect(lengthExcerpt(['abc'])).toBe('a list of 1');
  });
});
