/** How many singular values a resize keeps: sd-scripts adds one to the index that its rule finds, and keeps two at least. */
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { checkRankRule, keptRank, type RankRule } from '../../src/merging/kept-rank.ts';

const values = [8, 4, 2, 1, 1];
const by = (kind: 'sv-ratio' | 'sv-fro' | 'sv-cumulative', target: number, most = 99): number =>
  keptRank(values, { kind, target }, most);

describe('the rank that is kept', () => {
  it('is the one that is named', () => {
    expect(keptRank(values, { kind: 'rank' }, 3)).toBe(3);
  });

  // Sums 8, 12, 14, 15, 16; squares 64, 80, 84, 85, 86.
  it.each([
    ['sv-ratio', 1, 2],
    ['sv-ratio', 2, 2],
    ['sv-ratio', 4, 3],
    ['sv-ratio', 4.1, 4],
    ['sv-ratio', 100, 5],
    ['sv-cumulative', 0.5, 2],
    ['sv-cumulative', 0.75, 3],
    ['sv-cumulative', 0.8, 4],
    ['sv-cumulative', 1, 5],
    ['sv-fro', Math.sqrt(64 / 86), 2],
    ['sv-fro', Math.sqrt(79 / 86), 3],
    ['sv-fro', Math.sqrt(83 / 86), 4],
    ['sv-fro', 1, 5],
  ] as const)('by %s of %d is %i', (kind, target, rank) => {
    expect(by(kind, target)).toBe(rank);
  });

  it('is at most what is allowed, and 1 where there is nothing', () => {
    expect(by('sv-ratio', 100, 2)).toBe(2);
    expect(by('sv-cumulative', 0.5, 1)).toBe(1);
    expect(keptRank([], { kind: 'sv-fro', target: 1 }, 4)).toBe(1);
    expect(keptRank([1e-6, 1e-7], { kind: 'sv-ratio', target: 100 }, 4)).toBe(1);
    expect(keptRank([2e-6, 1.9e-6, 1.8e-6], { kind: 'sv-ratio', target: 100 }, 4)).toBe(3);
  });

  it.each<[RankRule, boolean]>([
    [{ kind: 'rank' }, true],
    [{ kind: 'sv-ratio', target: 1 }, true],
    [{ kind: 'sv-ratio', target: 0.9 }, false],
    [{ kind: 'sv-ratio', target: Number.POSITIVE_INFINITY }, false],
    [{ kind: 'sv-fro', target: 1 }, true],
    [{ kind: 'sv-fro', target: 1.1 }, false],
    [{ kind: 'sv-cumulative', target: 0 }, false],
    [{ kind: 'sv-cumulative', target: Number.NaN }, false],
  ])('by the rule %j: allowed %s', (rule, allowed) => {
    if (allowed) expect(() => checkRankRule(rule)).not.toThrow();
    else expect(() => checkRankRule(rule)).toThrow(UsageError);
  });
});
