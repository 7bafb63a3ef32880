/** Rates of pictures, and how sure they are. */

export const percent = (share: number): string => `${Math.round(100 * share)} %`;

/** 95 % of the standard normal distribution lie within this. */
const Z = 1.96;

/**
 * Wilson's 95 % interval of a rate, which says something at 0 and at all too.
 * Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
 */
export function rateInterval(hits: number, samples: number): { readonly low: number; readonly high: number } {
  const rate = hits / samples;
  const square = Z ** 2 / samples;
  const middle = (rate + square / 2) / (1 + square);
  const half = (Z / (1 + square)) * Math.sqrt((rate * (1 - rate)) / samples + square / (4 * samples));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}
