/**
 * Pruning and sign election over numbers of several adapters.
 * Source: TIES (arXiv:2306.01708, §3), DARE (arXiv:2311.03099, §3.2); numbers agree with PEFT 0.21, utils/merge_utils.py.
 */

import type { Task } from '../factors.ts';
import type { MajoritySign } from '../method.ts';

/** Keep the ⌊density · count⌋ numbers of largest magnitude, zero the others. */
export function keepLargest({ values, weight }: Task, density: number): Task {
  const count = Math.trunc(density * values.length);
  const kept = new Float64Array(values.length);
  if (count === 0) return { values: kept, weight };
  const magnitudes = values.map(Math.abs).sort();
  const threshold = magnitudes[values.length - count]!;
  let equal = count;
  values.forEach((value, i) => {
    if (Math.abs(value) > threshold) {
      kept[i] = value;
      equal--;
    }
  });
  // Of numbers exactly at the threshold the first ones stay.
  for (let i = 0; i < values.length && equal > 0; i++) {
    if (Math.abs(values[i]!) === threshold) {
      kept[i] = values[i]!;
      equal--;
    }
  }
  return { values: kept, weight };
}

/** Zero numbers at random and scale the others up, so that the expectation stays. */
export function keepRandom(
  { values, weight }: Task,
  density: number,
  keepMask: (count: number, density: number) => Uint8Array,
): Task {
  const mask = keepMask(values.length, density);
  return { values: values.map((value, i) => (mask[i] === 1 ? value / density : 0)), weight };
}

/** TIES' last two steps: elect a sign per number, then the mean of the weighted numbers that have it. */
export function electAndMerge(tasks: readonly Task[], majoritySign: MajoritySign): Float64Array {
  const merged = new Float64Array(tasks[0]!.values.length);
  for (let i = 0; i < merged.length; i++) {
    let vote = 0;
    for (const { values } of tasks) vote += majoritySign === 'total' ? values[i]! : Math.sign(values[i]!);
    const elected = vote >= 0 ? 1 : -1;
    let total = 0;
    let count = 0;
    for (const { values, weight } of tasks) {
      if (Math.sign(values[i]!) !== elected) continue;
      total += weight * values[i]!;
      count++;
    }
    merged[i] = total / Math.max(count, 1);
  }
  return merged;
}
