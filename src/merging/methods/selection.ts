/**
 * The k-th largest magnitude without sorting: magnitudes are ordered as their bits are, so that four passes over them, 16
 * bits each, find it exactly, one piece after the other.
 */
import type { Steps } from '../../pace.ts';

/** Numbers between two steps. */
const PIECE = 1 << 20;
const BINS = 1 << 16;
/** Of the upper half of a float64, all but the sign. */
const MAGNITUDE = 0x7fffffff;

/**
 * The magnitude that exactly `count` − 1 numbers, or fewer where some are equal, exceed.
 * @param values as they are sorted, NaN counts as the largest
 * @param count  1 … values.length
 */
export function* largestMagnitudes(values: Float64Array, count: number): Steps<number> {
  const words = new Uint32Array(values.buffer, values.byteOffset, 2 * values.length);
  const histogram = new Uint32Array(BINS);
  /** The bits found so far, upper half first, and what is still to be counted among numbers that have them. */
  let [high, low] = [0, 0];
  let left = count;
  for (let pass = 0; pass < 4; pass++) {
    histogram.fill(0);
    for (let begin = 0; begin < values.length; begin += PIECE) {
      tally(words, begin, Math.min(values.length, begin + PIECE), pass, high, low, histogram);
      yield;
    }
    let bin = BINS - 1;
    while (histogram[bin]! < left) left -= histogram[bin--]!;
    if (pass === 0) high = bin * BINS;
    else if (pass === 1) high += bin;
    else if (pass === 2) low = bin * BINS;
    else low += bin;
  }
  return new Float64Array(Uint32Array.of(low, high).buffer)[0]!;
}

/** Counts the next 16 bits of those numbers whose bits before are `high` and `low`. */
function tally(
  words: Uint32Array,
  begin: number,
  end: number,
  pass: number,
  high: number,
  low: number,
  histogram: Uint32Array,
): void {
  for (let i = begin; i < end; i++) {
    const upper = words[2 * i + 1]! & MAGNITUDE;
    if (pass === 0) {
      histogram[upper >>> 16]!++;
    } else if (pass === 1) {
      if (upper >>> 16 === high >>> 16) histogram[upper & 0xffff]!++;
    } else if (upper === high) {
      const lower = words[2 * i]!;
      if (pass === 2) histogram[lower >>> 16]!++;
      else if (lower >>> 16 === low >>> 16) histogram[lower & 0xffff]!++;
    }
  }
}
