/**
 * How many singular values a resize keeps. Same choices as sd-scripts, so that files resized by either have equal ranks.
 * Source: kohya-ss/sd-scripts@48d368fa, networks/resize_lora.py (index_sv_*, rank_resize).
 */
import { UsageError } from '../errors.ts';

/**
 * - `rank`: a fixed number
 * - `sv-ratio`: values above the largest divided by `target`
 * - `sv-fro`: enough for the share `target` of the Frobenius norm
 * - `sv-cumulative`: enough for the share `target` of their plain sum
 */
export type RankRule =
  | { readonly kind: 'rank' }
  | { readonly kind: 'sv-ratio' | 'sv-fro' | 'sv-cumulative'; readonly target: number };

/** @throws {UsageError} if a target is out of range: above 1 for the ratio, above 0 and up to 1 for shares */
export function checkRankRule(rule: RankRule): void {
  if (rule.kind === 'rank') return;
  const { kind, target } = rule;
  const fine = kind === 'sv-ratio' ? target >= 1 : target > 0 && target <= 1;
  if (!fine || !Number.isFinite(target)) {
    throw new UsageError(
      `${kind}: expected ${kind === 'sv-ratio' ? 'a number of 1 or more' : 'a number above 0, up to 1'}, got ${target}`,
    );
  }
}

/** Largest value that counts as zero. */
const SMALLEST = 1e-6;

/**
 * @param singularValues descending, min(m, n) of them, of up · down
 * @param most           never more than this, whatever the rule; ≥ 1
 */
export function keptRank(singularValues: ArrayLike<number>, rule: RankRule, most: number): number {
  if (rule.kind === 'rank') return most;
  const count = singularValues.length;
  if (count === 0 || singularValues[0]! <= SMALLEST) return 1;
  let index = 0;
  if (rule.kind === 'sv-ratio') {
    const least = singularValues[0]! / rule.target;
    for (let i = 0; i < count; i++) if (singularValues[i]! > least) index++;
  } else {
    const power = rule.kind === 'sv-fro' ? 2 : 1;
    let total = 0;
    for (let i = 0; i < count; i++) total += singularValues[i]! ** power;
    const wanted = rule.target ** power;
    let sum = singularValues[0]! ** power;
    while (index < count - 1 && sum / total < wanted) sum += singularValues[++index]! ** power;
    index++;
  }
  // The reference adds one to the index it finds, and never starts below 1.
  return Math.min(most, Math.max(1, Math.min(index, count - 1)) + 1);
}
