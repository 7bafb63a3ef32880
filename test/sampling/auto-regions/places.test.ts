/** Places of words in maps that are known: where they are told, apart where they are told in one place, and doubted where nothing is. */
import { describe, expect, it } from 'vitest';
import { placeDoubts } from '../../../src/sampling/auto-regions/place-doubts.ts';
import { PLACE_FINDERS, type PlaceFinder } from '../../../src/sampling/auto-regions/place-finder.ts';
import { WordMaps } from '../../../src/sampling/auto-regions/word-maps.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';

const SIZE = { height: 16, width: 32 };
const COUNT = SIZE.height * SIZE.width;
type Spot = readonly [y: number, x: number];

/** A hill of radius 5 around a cell. */
const hill = ([cy, cx]: Spot, n: number): number =>
  Math.exp(-((Math.floor(n / SIZE.width) - cy) ** 2 + ((n % SIZE.width) - cx) ** 2) / 50);

/** Maps of words around their spots; a position's queries say which hill it stands on, if any. */
function mapsOf(spots: readonly Spot[], height = 1, seed = 1, like = height): WordMaps {
  const words = spots.length;
  const noise = new TorchGenerator(seed).randn(COUNT * (words + 1));
  const maps = new WordMaps(words, [SIZE], 0.8);
  const shares = new Float32Array(COUNT * words);
  const queries = new Float32Array(COUNT * (words + 1));
  for (let n = 0; n < COUNT; n++) {
    spots.forEach((spot, word) => {
      shares[n * words + word] = 0.1 * (1 + height * hill(spot, n) + 0.02 * noise[n * words + word]!);
      queries[n * (words + 1) + word] = like * hill(spot, n);
    });
    queries[n * (words + 1) + words] = 0.3 * noise[n]!;
  }
  const place = { path: 'block', channels: words + 1, numHeads: 1, level: 0, index: 0 };
  maps.add([{ place, shares, queries }]);
  return maps;
}

const at = (mask: Float32Array, [y, x]: Spot): number => mask[y * SIZE.width + x]!;
const shareOf = (mask: Float32Array): number => mask.reduce((sum, value) => sum + value, 0) / COUNT;

describe('soft places', () => {
  const { find } = PLACE_FINDERS.soft;

  it('are where words are told, whatever their order', () => {
    const spots: Spot[] = [
      [8, 24],
      [7, 6],
    ];
    const masks = find(mapsOf(spots), null);
    spots.forEach((spot, word) => {
      expect(at(masks[word]!, spot)).toBeGreaterThan(0.95);
      expect(at(masks[1 - word]!, spot)).toBeLessThan(0.02);
    });
  });

  it('fade at their edges, sum to one at most, and are what 8 bits hold', () => {
    const masks = find(
      mapsOf([
        [8, 6],
        [8, 25],
        [2, 16],
      ]),
      null,
    );
    expect(masks[0]!.some((value) => value > 0.1 && value < 0.9)).toBe(true);
    for (let n = 0; n < COUNT; n++) {
      const all = masks.map((mask) => mask[n]!);
      expect(all.reduce((a, b) => a + b)).toBeLessThanOrEqual(1 + 2 / 255);
      for (const value of all) expect(Math.abs(255 * value - Math.round(255 * value))).toBeLessThan(1e-4);
    }
  });

  it('part where two words are told in one place, and each keeps its least share', () => {
    const masks = find(
      mapsOf([
        [8, 16],
        [8, 16],
      ]),
      null,
    );
    for (const mask of masks) expect(shareOf(mask)).toBeGreaterThan(0.2);
    const both = masks[0]!.filter((value, n) => value > 0.3 && masks[1]![n]! > 0.3).length;
    expect(both / COUNT).toBeLessThan(0.2);
  });

  it('go by what cells are like, too', () => {
    const spots: Spot[] = [
      [8, 10],
      [8, 22],
    ];
    const [told, alike] = [mapsOf(spots, 1, 1, 0), mapsOf(spots)];
    expect(at(Float32Array.from(alike.likeness()[0]!), [8, 10])).toBeGreaterThan(0.7);
    expect(at(Float32Array.from(alike.likeness()[0]!), [8, 22])).toBeLessThan(0.2);
    expect(find(alike, null)).not.toEqual(find(told, null));
  });

  it('go with the picture', () => {
    const before = find(
      mapsOf([
        [8, 6],
        [8, 25],
      ]),
      null,
    );
    const moved = find(
      mapsOf([
        [8, 13],
        [8, 28],
      ]),
      before,
    );
    expect(at(before[0]!, [8, 15])).toBeLessThan(at(moved[0]!, [8, 15]));
  });

  it('of one word alone are not the whole picture', () => {
    const [mask] = find(mapsOf([[8, 5]], 3), null);
    expect(at(mask!, [8, 5])).toBeGreaterThan(0.9);
    expect(at(mask!, [8, 31])).toBeLessThan(0.75);
  });
});

describe('places from one step', () => {
  it('are hard, and where words are told', () => {
    const spots: Spot[] = [
      [8, 24],
      [7, 6],
    ];
    const finder: PlaceFinder = PLACE_FINDERS['one-step'];
    const masks = finder.find(mapsOf(spots), null);
    spots.forEach((spot, word) => {
      expect(at(masks[word]!, spot)).toBe(1);
      expect(at(masks[1 - word]!, spot)).toBe(0);
    });
    for (const mask of masks) expect(mask.every((value) => value === 0 || value === 1)).toBe(true);
  });
});

describe('a doubt', () => {
  it('is said of a word that is told nowhere, and of one that is told where a stronger one is', () => {
    expect(
      placeDoubts(
        mapsOf([
          [8, 6],
          [8, 25],
        ]),
      ),
    ).toEqual([null, null]);
    expect(placeDoubts(mapsOf([[8, 6]], 0.02))).toEqual([{ kind: 'flat' }]);
    const doubts = placeDoubts(
      mapsOf([
        [8, 16],
        [8, 16],
      ]),
    );
    expect(doubts.filter((doubt) => doubt === null)).toHaveLength(1);
    expect(doubts.filter((doubt) => doubt?.kind === 'shared')).toHaveLength(1);
  });
});

describe('maps', () => {
  it('of earlier steps fade', () => {
    const maps = new WordMaps(1, [SIZE], 0.5);
    const place = { path: 'block', channels: 1, numHeads: 1, level: 0, index: 0 };
    const step = (first: number): void => {
      const shares = new Float32Array(COUNT).fill(1);
      shares[0] = first;
      const mean = (COUNT - 1 + first) / COUNT;
      maps.add([{ place, shares: shares.map((value) => value / mean), queries: new Float32Array(COUNT) }]);
    };
    step(9);
    const once = maps.attention()[0]![0]!;
    step(1);
    // (0.5 · once + 1) / 1.5
    expect(maps.attention()[0]![0]).toBeCloseTo((0.5 * once + 1) / 1.5, 5);
  });
});
