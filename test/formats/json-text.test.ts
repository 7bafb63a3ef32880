import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { setJsonField } from '../../src/formats/json-text.ts';

describe('setJsonField', () => {
  it('keeps what it does not set, to the letter', () => {
    const text =
      '{\n  "a": 1.0,\n  "n": 1000000000000000019884624838656,\n  "vocab_size": 826,\n  "s": "}, \\"x\\": 1"\n}';
    expect(setJsonField(text, 'vocab_size', 900)).toBe(text.replace('826', '900'));
    expect(setJsonField(text, 'new', [1])).toContain('"a": 1.0');
  });

  it('equals setting the field of the parsed object, wherever it stands', () => {
    const json = fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 5 });
    fc.assert(
      fc.property(json, fc.string(), fc.jsonValue(), fc.nat(8), (object, key, value, indent) => {
        const safe = JSON.parse(JSON.stringify(object)) as Record<string, unknown>;
        const changed = JSON.parse(setJsonField(JSON.stringify(safe, null, indent), key, value)) as unknown;
        const keys = [...Object.keys(safe).filter((name) => name !== key), key];
        for (const name of keys) {
          const expected = name === key ? value : safe[name];
          expect((changed as Record<string, unknown>)[name]).toEqual(JSON.parse(JSON.stringify(expected)));
        }
        expect(Object.keys(changed as object)).toHaveLength(keys.length);
      }),
    );
  });

  it('refuses what is no object', () => {
    expect(() => setJsonField('[1]', 'a', 1)).toThrow('expected an object');
    expect(() => setJsonField('{"a":', 'a', 1)).toThrow(UsageError);
    const blank = ' '.repeat(5000);
    expect(setJsonField(`{"a"${blank}:${blank}1}`, 'a', 2)).toBe(`{"a"${blank}:${blank}2}`);
  });
});
