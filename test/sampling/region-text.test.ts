import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import {
  parseMixOfShowRegions,
  parseMixOfShowStrengths,
  parseRegion,
} from '../../src/sampling/region-text.ts';

describe('regions as text', () => {
  it('reads boxes, polygons, masks, settings and negative prompts', () => {
    expect(parseRegion('a <s1> <s2> @ 0,0,0.5,1')).toEqual({
      prompt: 'a <s1> <s2>',
      negative: '',
      shape: { kind: 'box', box: [0, 0, 0.5, 1] },
      feather: 0,
      weight: 1,
    });
    expect(parseRegion('a cat @home @ mask one.png feather=4 : blurry: no').shape).toEqual({
      kind: 'mask',
      file: 'mask one.png',
    });
    expect(parseRegion('a @ 0,0 1,0 .5,1 weight=2 feather=3 : x')).toEqual({
      prompt: 'a',
      negative: 'x',
      shape: {
        kind: 'polygon',
        polygon: [
          [0, 0],
          [1, 0],
          [0.5, 1],
        ],
      },
      feather: 3,
      weight: 2,
    });
  });

  it.each([
    ['no place', /got no @/],
    ['@ 0,0,1,1', /a prompt before @/],
    ['a @ ', /a box, a polygon or a mask/],
    ['a @ 0,0,1', /four numbers/],
    ['a @ 0,0,1,x', /four numbers/],
    ['a @ 0,0,1,1 feather=1 feather=2', /feather once/],
  ])('refuses "%s"', (text, message) => {
    expect(() => parseRegion(text)).toThrow(message);
    expect(() => parseRegion(text)).toThrow(UsageError);
  });

  it.each([
    ['digits', `a @ ${'1'.repeat(80_000)}x`],
    ['digits before a comma', `a @ ${'1'.repeat(80_000)}x,1`],
    ['blanks', `a @ 0,0,1,1${' '.repeat(80_000)}x`],
    ['settings', `a @ m.png${' feather=1'.repeat(8000)}`],
    ['digits of a setting', `a @ m.png feather=${'1'.repeat(80_000)}x`],
  ])('takes time in proportion to %s', (_, text) => {
    const start = performance.now();
    try {
      parseRegion(text);
    } catch (error) {
      expect(error).toBeInstanceOf(UsageError);
    }
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it.each([
    ['a dog @ 0,0,1,1 : blurry, @watermark', 'a dog', 'blurry, @watermark'],
    ['a dog @home @ 0,0,1,1 weight=2 : me@home', 'a dog @home', 'me@home'],
    ['a dog @ 0,0,1,1', 'a dog', ''],
    ['a @b : c @ 0,0,1,1', 'a @b : c', ''],
  ])('takes the @ of the place in %s', (text, prompt, negative) => {
    expect(parseRegion(text)).toMatchObject({ prompt, negative, shape: { kind: 'box' } });
  });

  it('does so for Mix-of-Show’s boxes, and cuts what it repeats', () => {
    const start = performance.now();
    for (const place of [`[${'1'.repeat(80_000)}x`, `[1, 1, 1, 1${' '.repeat(80_000)}x`]) {
      const read = () => parseMixOfShowRegions(`[a]-*-[]-*-${place}`, 8, 8);
      expect(read).toThrow(/^.{1,400}$/s);
    }
    expect(performance.now() - start).toBeLessThan(5000);
    expect(() => parseMixOfShowRegions('[a]-*-[]-*-[]|'.repeat(65), 8, 8)).toThrow(
      /at most 64 regions.*got 65/,
    );
  });

  it('reads Mix-of-Show’s list of regions without evaluating it', () => {
    const text = '[a <hina1> <hina2>, near a lake]-*-[lowres, bad]-*-[61, 0, 512, 160]|[a <ai1>]-*-[]-*-[]|';
    expect(parseMixOfShowRegions(text, 1024, 512)).toEqual([
      {
        prompt: 'a <hina1> <hina2>, near a lake',
        negative: 'lowres, bad',
        shape: { kind: 'box', box: [0, 61 / 512, 160 / 1024, 1] },
        feather: 0,
        weight: 1,
      },
      { prompt: 'a <ai1>', negative: '', shape: { kind: 'box', box: [0, 0, 1, 1] }, feather: 0, weight: 1 },
    ]);
    const attack = "[a]-*-[]-*-[__import__('os').system('true'), 0, 1, 1]";
    expect(() => parseMixOfShowRegions(attack, 512, 512)).toThrow(/expected a box/);
    expect(() => parseMixOfShowRegions('[a]-*-[0, 0, 1, 1]', 512, 512)).toThrow(/got 2 parts/);
  });

  it('reads Mix-of-Show’s adapter strengths', () => {
    expect(parseMixOfShowStrengths('[0, 0, 256, 512]-0.8|[256, 0, 512, 512]-1', 512, 512)).toEqual([
      { shape: { kind: 'box', box: [0, 0, 1, 0.5] }, strength: 0.8 },
      { shape: { kind: 'box', box: [0, 0.5, 1, 1] }, strength: 1 },
    ]);
    expect(() => parseMixOfShowStrengths('[0, 0, 1, 1]-max', 8, 8)).toThrow(/\[y0, x0, y1, x1\]-strength/);
  });
});
