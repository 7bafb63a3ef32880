import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { bootstrapMean, quantile } from '../../src/evaluation/bootstrap.ts';
import { imageAlignment, mean, similarities, textAlignment } from '../../src/evaluation/similarity.ts';
import { type Embeddings, normalised } from '../../src/models/clip/clip-encoder.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

function random(count: number, width: number, seed: number): Embeddings {
  return normalised({ count, width, data: new TorchGenerator(seed).randn(count * width) });
}

describe('similarities', () => {
  it('are cosines: 1 with oneself, symmetric, and the alignments are their means', () => {
    const a = random(7, 12, 1);
    const b = random(5, 12, 2);
    const own = similarities(a, a);
    for (let i = 0; i < a.count; i++) {
      expect(own[i * a.count + i]).toBeCloseTo(1, 6);
      for (let j = 0; j < a.count; j++) expect(own[i * a.count + j]).toBe(own[j * a.count + i]);
    }
    expect(mean(imageAlignment(a, b))).toBeCloseTo(mean(similarities(a, b)), 12);
    expect([...textAlignment(a, a)].every((value) => Math.abs(value - 1) < 1e-6)).toBe(true);
  });

  it('refuse embeddings of two widths or counts', () => {
    expect(() => similarities(random(2, 3, 0), random(2, 4, 0))).toThrow('expected width 3, got 4');
    expect(() => textAlignment(random(2, 3, 0), random(3, 3, 0))).toThrow('expected [2, 3] texts');
  });
});

describe('bootstrap', () => {
  const values = (seed: number, count: number, offset = 0): number[] =>
    [...new TorchGenerator(seed).randn(count)].map((value) => value + offset);
  const each = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

  it('covers the true mean of normal samples about as often as it says', () => {
    const runs = 200;
    let [inside, width] = [0, 0];
    for (let seed = 0; seed < runs; seed++) {
      const { low, high } = bootstrapMean(values(seed, 60, 3), each(60), { resamples: 400, seed });
      if (low <= 3 && 3 <= high) inside++;
      width += (high - low) / runs;
    }
    expect(inside / runs).toBeGreaterThan(0.88);
    // 2 · 1.96 / √60
    expect(width).toBeGreaterThan(0.85 * 0.506);
    expect(width).toBeLessThan(1.1 * 0.506);
  });

  it('draws whole prompts: copies of a sample add no certainty', () => {
    const once = values(4, 20);
    const copied = once.flatMap((value) => [value, value, value, value]);
    const groups = each(20).flatMap((group) => [group, group, group, group]);
    const single = bootstrapMean(once, each(20), { seed: 7 });
    const clustered = bootstrapMean(copied, groups, { seed: 7 });
    expect(clustered.low).toBeCloseTo(single.low, 12);
    expect(clustered.high).toBeCloseTo(single.high, 12);
    const wrong = bootstrapMean(copied, each(80), { seed: 7 });
    expect(wrong.high - wrong.low).toBeLessThan(0.7 * (clustered.high - clustered.low));
  });

  it('draws samples where there is one prompt', () => {
    const { low, high } = bootstrapMean([1, 2, 3, 4], [0, 0, 0, 0]);
    expect(low).toBeLessThan(2);
    expect(high).toBeGreaterThan(3);
  });

  it('holds the mean, is seeded, and widens with the level', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -10, max: 10, noNaN: true }), { minLength: 2, maxLength: 30 }),
        fc.integer({ min: 0, max: 1000 }),
        (list, seed) => {
          const options = { seed, resamples: 200 };
          const interval = bootstrapMean(list, each(list.length), options);
          expect(interval).toEqual(bootstrapMean(list, each(list.length), options));
          expect(interval.mean).toBeCloseTo(mean(list), 9);
          const narrow = bootstrapMean(list, each(list.length), { ...options, level: 0.5 });
          expect(narrow.low).toBeGreaterThanOrEqual(interval.low);
          expect(narrow.high).toBeLessThanOrEqual(interval.high);
          expect(interval.low).toBeGreaterThanOrEqual(Math.min(...list) - 1e-9);
          expect(interval.high).toBeLessThanOrEqual(Math.max(...list) + 1e-9);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('refuses nothing, and levels that are none', () => {
    expect(() => bootstrapMean([], [])).toThrow(UsageError);
    expect(() => bootstrapMean([1], [0], { level: 1 })).toThrow('level between 0 and 1');
    expect(() => bootstrapMean([1, 2], [0])).toThrow('expected 2 groups');
  });

  it('takes quantiles linearly between ranks', () => {
    expect(quantile([0, 10, 20, 30], 0.5)).toBe(15);
    expect(quantile([0, 10, 20, 30], 1)).toBe(30);
    expect(quantile([5], 0.3)).toBe(5);
  });
});
