import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { MAX_YAML_LENGTH, parseYaml } from '../../src/formats/strict-yaml.ts';

describe('parseYaml', () => {
  it('reads YAML and JSON, and knows the lines', () => {
    const { value, lineOf, lineOfKey } = parseYaml('a: 1\nb:\n  - c: 2\n    d: [x, !!float 1e-3]\n', 'f');
    expect(value).toEqual({ a: 1, b: [{ c: 2, d: ['x', 0.001] }] });
    expect(lineOf(['b', 0, 'd', 1])).toBe(4);
    expect(lineOf(['b', 0, 'missing', 7])).toBe(3);
    expect(lineOfKey(['b', 0], 'd')).toBe(4);
    expect(parseYaml('{"a": [1, null]}', 'f').value).toEqual({ a: [1, null] });
    expect(parseYaml('', 'f').value).toBeNull();
  });

  it.each([
    ['references', 'a: &x [1]\nb: *x', /^f:2: references/],
    ['equal keys', 'a: 1\nb: 2\na: 3', /^f:3: the key "a" is there twice/],
    ['a key that changes objects', 'a:\n  __proto__: {}', /^f:2: the key "__proto__"/],
    ['keys that are no text', '? [1]\n: 2', /expected text as key/],
    ['tags of its own', 'a: !!binary aaaa', /Unresolved tag/],
    ['several documents', '- a\n---\n- b', /multiple documents/],
    ['depth', `${'['.repeat(70)}${']'.repeat(70)}`, /at most 64 deep/],
    ['depth that would overflow', `${'[{a: '.repeat(20_000)}`, /more than 64 deep/],
    ['depth in one line', `${'- '.repeat(40_000)}a`, /more than 64 deep/],
    ['length', `a: ${'x'.repeat(MAX_YAML_LENGTH)}`, /at most 131072 characters, got 131075/],
  ])('refuses %s', (_, text, message) => {
    expect(() => parseYaml(text, 'f')).toThrow(message);
    expect(() => parseYaml(text, 'f')).toThrow(FormatError);
  });

  it.each([
    ['keys', Array.from({ length: 13_000 }, (_, i) => `k${i}: 1`).join('\n')],
    ['errors', ']'.repeat(MAX_YAML_LENGTH)],
    ['commas', `[${','.repeat(MAX_YAML_LENGTH - 1)}`],
    ['bad escapes', `"${'\\q'.repeat(60_000)}"`],
    ['blank lines', '\n'.repeat(MAX_YAML_LENGTH)],
    ['anchors', '&a '.repeat(40_000)],
  ])('takes time in proportion to %s', (_, text) => {
    const start = performance.now();
    try {
      parseYaml(text, 'f');
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
    }
    expect(performance.now() - start).toBeLessThan(8000);
  });
});
