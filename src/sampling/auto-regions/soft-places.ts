/**
 * Where words stand, as soft masks. Each word has one place: cells belong to it by what the picture tells of the word there, and by
 * how near they are to the middle of all that is its own,
 *
 *   l_c(n) = e_c(n) − |n − μ_c|² / 2σ² + b_c,   m_c(n) = cover(n) · softmax_c(l_c(n) / τ),   μ_c = Σ m_c n / Σ m_c
 *
 * with evidence e (attention and likeness, both in standard deviations), σ the radius of an equal share of the picture, and b such that no
 * word has less than its least share. A mixture fitted by expectation and maximisation: words that are told in the same
 * place part there, instead of mixing.
 */

import type { MapSize } from './map-numbers.ts';
import { smoothed, standard, sumOf } from './map-numbers.ts';
import type { WordMaps } from './word-maps.ts';

/** Steps of the fit, and where it goes on from an earlier one. */
const ROUNDS = 16;
const MORE_ROUNDS = 4;
/** τ: how far edges fade. */
const TEMPERATURE = 0.25;
/** Of an equal share of the picture, what a word has at least. */
const LEAST_SHARE = 0.5;
/** Cover fades out where evidence and nearness together fall below this. */
const COVER = -2;
const COVER_FADE = 0.5;
/** Masks are what 8 bits hold, so that a stored mask is the same mask. */
const LEVELS = 255;

/** As `PlaceFinder` says. */
export function softPlaces(maps: WordMaps, before: readonly Float32Array[] | null): Float32Array[] {
  const evidence = evidenceOf(maps);
  const { height, width } = maps.size;
  const count = height * width;
  const words = evidence.length;
  const spread = count / words / Math.PI;
  const bias = new Float64Array(words);
  let centres = evidence.map((own, word) => {
    const earlier = before?.[word];
    if (earlier !== undefined) return centreOf(maps.size, (n) => earlier[n]!);
    return centreOf(maps.size, (n) => {
      const others = evidence.reduce((sum, other, i) => (i === word ? sum : sum + other[n]!), 0);
      return Math.exp(2 * (own[n]! - others / Math.max(1, words - 1)));
    });
  });
  const masks = evidence.map(() => new Float64Array(count));
  for (let round = 0; round < (before === null ? ROUNDS : MORE_ROUNDS); round++) {
    const scores = evidence.map((own, word) => {
      const [cy, cx] = centres[word]!;
      return own.map((value, n) => {
        const distance = (Math.floor(n / width) - cy) ** 2 + ((n % width) - cx) ** 2;
        return value - distance / 2 / spread;
      });
    });
    assign(scores, bias, masks);
    masks.forEach((mask, word) => {
      const [share, least] = [sumOf(mask) / count, LEAST_SHARE / words];
      if (share < least) bias[word]! += TEMPERATURE * Math.min(3, Math.log(least / Math.max(share, 1e-6)));
    });
    assign(scores, bias, masks);
    centres = masks.map((mask) => centreOf(maps.size, (n) => mask[n]!));
  }
  return masks.map((mask) => Float32Array.from(mask, (value) => Math.floor(LEVELS * value + 0.25) / LEVELS));
}

/** By word: what the picture tells, mean of attention and likeness, each in standard deviations, smoothed. */
function evidenceOf(maps: WordMaps): Float64Array[] {
  const likeness = maps.likeness();
  return maps.attention().map((own, word) => {
    const [a, b] = [own, likeness[word]!].map((map) => standard(smoothed(map, maps.size)));
    return a!.map((value, n) => (value + b![n]!) / 2);
  });
}

function assign(scores: readonly Float64Array[], bias: Float64Array, masks: readonly Float64Array[]): void {
  const count = masks[0]!.length;
  for (let n = 0; n < count; n++) {
    let highest = Number.NEGATIVE_INFINITY;
    scores.forEach((own, word) => {
      highest = Math.max(highest, own[n]! + bias[word]!);
    });
    let total = 0;
    scores.forEach((own, word) => {
      const value = Math.exp((own[n]! + bias[word]! - highest) / TEMPERATURE);
      masks[word]![n] = value;
      total += value;
    });
    const cover = 1 / (1 + Math.exp((COVER - highest) / COVER_FADE));
    for (const mask of masks) mask[n]! *= cover / total;
  }
}

function centreOf(
  { height, width }: MapSize,
  weight: (n: number) => number,
): readonly [y: number, x: number] {
  let [total, y, x] = [0, 0, 0];
  for (let n = 0; n < height * width; n++) {
    const own = weight(n);
    total += own;
    y += own * Math.floor(n / width);
    x += own * (n % width);
  }
  return [y / total, x / total];
}
