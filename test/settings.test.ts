import { describe, expect, it } from 'vitest';
import { defined, withDefaults } from '../src/settings.ts';

describe('settings', () => {
  it('that are undefined leave their default', () => {
    const defaults = { steps: 20, seed: 0, rank: null as number | null };
    expect(withDefaults(defaults, { steps: undefined, seed: 7 })).toStrictEqual({
      steps: 20,
      seed: 7,
      rank: null,
    });
    expect(withDefaults(defaults, undefined)).toStrictEqual(defaults);
  });

  it('that are null, 0 or false are given', () => {
    expect(defined({ a: null, b: 0, c: false, d: undefined })).toStrictEqual({ a: null, b: 0, c: false });
  });
});
