/** Words that found no place of their own: what was told of them says nowhere, or where another word is. */
import { smoothed, standard, sumOf } from './map-numbers.ts';
import type { WordMaps } from './word-maps.ts';

/** `null`: none. */
export type PlaceDoubt =
  | { readonly kind: 'flat' }
  | { readonly kind: 'shared'; readonly word: number }
  | null;

/** Standard deviation of attention, whose mean is 1, below which it says nowhere. */
const FLAT = 0.03;
/** Correlation of attention above which two words are told in one place. */
const ALIKE = 0.9;

/** By word. Of two that are told in one place, the one whose attention varies less has another's. */
export function placeDoubts(maps: WordMaps): PlaceDoubt[] {
  const attention = maps.attention().map((own) => smoothed(own, maps.size));
  const contrast = attention.map((own) =>
    Math.sqrt(sumOf(own.map((value) => (value - 1) ** 2)) / own.length),
  );
  const shapes = attention.map(standard);
  return shapes.map((own, word): PlaceDoubt => {
    if (contrast[word]! < FLAT) return { kind: 'flat' };
    const other = shapes.findIndex((shape, i) => {
      const stronger = contrast[i]! > contrast[word]! || (contrast[i] === contrast[word] && i < word);
      return i !== word && stronger && sumOf(own.map((value, n) => value * shape[n]!)) / own.length > ALIKE;
    });
    return other < 0 ? null : { kind: 'shared', word: other };
  });
}
