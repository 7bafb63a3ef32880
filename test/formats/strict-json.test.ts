import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { parseJson } from '../../src/formats/strict-json.ts';

describe('parseJson', () => {
  it('reads what JSON.parse reads', () => {
    const tree = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.string(),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.constantFrom(null, true, '"', '\\', '{[,'),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.dictionary(fc.string(), tie('value'), { maxKeys: 4 }),
      ),
    })).value;
    fc.assert(
      fc.property(tree, fc.constantFrom(undefined, 2), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        fc.pre(!text.includes('__proto__'));
        expect(parseJson(text, 'f')).toEqual(JSON.parse(text));
      }),
    );
  });

  it.each([
    ['equal keys', '{"a": 1, "b": {"a": 2}, "a": 3}', /f: the key "a" is there twice/],
    ['equal keys, written differently', String.raw`{"a": 1, "\u0061": 2}`, /twice/],
    ['a key that changes objects', '[{"x": {"__proto__": null}}]', /"__proto__" is not accepted/],
    ['depth', `${'['.repeat(65)}${']'.repeat(65)}`, /at most 64 deep/],
    ['depth without end', '{"a":'.repeat(500_000), /at most 64 deep/],
    ['what is no JSON', '{"a": ', /expected JSON/],
    ['nothing', '', /expected JSON/],
  ])('refuses %s', (_, text, message) => {
    expect(() => parseJson(text, 'f')).toThrow(message);
    expect(() => parseJson(text, 'f')).toThrow(FormatError);
  });
});
