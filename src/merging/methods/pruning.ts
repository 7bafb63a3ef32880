/**
 * Pruning and sign election over numbers of several adapters.
 * Source: TIES (arXiv:2306.01708, §3), DARE (arXiv:2311.03099, §3.2); numbers agree with PEFT 0.21, utils/merge_utils.py.
 */
import type { Steps } from '../../pace.ts';
import type { Task } from '../factors.ts';
import type { MajoritySign } from '../method.ts';
import { largestMagnitudes } from './selection.ts';

/** Numbers between two steps. */
const PIECE = 1 << 20;

/** Calls `each` for stretches [begin, end) of `count` numbers. */
function* inPieces(count: number, each: (begin: number, end: number) => void): Steps<void> {
  for (let begin = 0; begin < count; begin += PIECE) {
    each(begin, Math.min(count, begin + PIECE));
    yield;
  }
}

/** Keep the ⌊density · count⌋ numbers of largest magnitude, zero the others. */
export function* keepLargest({ values, weight }: Task, density: number): Steps<Task> {
  const count = Math.trunc(density * values.length);
  const kept = new Float64Array(values.length);
  if (count === 0) return { values: kept, weight };
  const threshold = yield* largestMagnitudes(values, count);
  let equal = count;
  yield* inPieces(values.length, (begin, end) => {
    for (let i = begin; i < end; i++) {
      if (!(Math.abs(values[i]!) > threshold)) continue;
      kept[i] = values[i]!;
      equal--;
    }
  });
  // Of numbers exactly at the threshold the first ones stay.
  yield* inPieces(values.length, (begin, end) => {
    for (let i = begin; i < end && equal > 0; i++) {
      if (Math.abs(values[i]!) !== threshold) continue;
      kept[i] = values[i]!;
      equal--;
    }
  });
  return { values: kept, weight };
}

/** Zero numbers at random and scale the others up, so that the expectation stays. */
export function* keepRandom(
  { values, weight }: Task,
  density: number,
  keepMask: (count: number, density: number) => Steps<Uint8Array>,
): Steps<Task> {
  const mask = yield* keepMask(values.length, density);
  const kept = new Float64Array(values.length);
  yield* inPieces(values.length, (begin, end) => {
    for (let i = begin; i < end; i++) if (mask[i] === 1) kept[i] = values[i]! / density;
  });
  return { values: kept, weight };
}

/** TIES' last two steps: elect a sign per number, then the mean of the weighted numbers that have it. */
export function* electAndMerge(tasks: readonly Task[], majoritySign: MajoritySign): Steps<Float64Array> {
  const merged = new Float64Array(tasks[0]!.values.length);
  yield* inPieces(merged.length, (begin, end) => {
    for (let i = begin; i < end; i++) merged[i] = elected(tasks, i, majoritySign);
  });
  return merged;
}

function elected(tasks: readonly Task[], i: number, majoritySign: MajoritySign): number {
  let vote = 0;
  for (const { values } of tasks) vote += majoritySign === 'total' ? values[i]! : Math.sign(values[i]!);
  const sign = vote >= 0 ? 1 : -1;
  let total = 0;
  let count = 0;
  for (const { values, weight } of tasks) {
    if (Math.sign(values[i]!) !== sign) continue;
    total += weight * values[i]!;
    count++;
  }
  return total / Math.max(count, 1);
}
