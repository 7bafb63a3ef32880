/**
 * Where words stand, as FreeFuse is described: hard masks from one step. Each cell is the word's whose seeds it is most like, with
 * shares evened out and neighbours voting; what is like none of them is surroundings; opening and closing clean the masks.
 * Differs from it: likeness is that of queries, in all layers that tell, and surroundings are what is less like every word than the mean.
 */
import type { MapSize } from './map-numbers.ts';
import type { WordMaps } from './word-maps.ts';

/** Rounds in which shares are evened out, and how much by a round. */
const ROUNDS = 15;
const BALANCE = 0.3;
/** Cells to each side that vote. */
const REACH = 1;

export function oneStepPlaces(maps: WordMaps): Float32Array[] {
  const likeness = maps.likeness().map((own) => voted(own, maps.size));
  const count = likeness[0]!.length;
  const bias = likeness.map(() => 0);
  let owners: Int32Array = new Int32Array(count);
  for (let round = 0; round < ROUNDS; round++) {
    owners = owners.map((_, n) => {
      if (likeness.every((own) => own[n]! < 0)) return -1;
      return likeness.reduce(
        (best, own, word) => (own[n]! + bias[word]! > likeness[best]![n]! + bias[best]! ? word : best),
        0,
      );
    });
    const owned = owners.filter((owner) => owner >= 0).length;
    bias.forEach((_, word) => {
      const share = owners.filter((owner) => owner === word).length / Math.max(1, owned);
      bias[word]! += BALANCE * (1 / likeness.length - share);
    });
  }
  return likeness.map((_, word) => {
    const mask = Float32Array.from(owners, (owner) => (owner === word ? 1 : 0));
    return opened(opened(mask, maps.size, 1), maps.size, 0);
  });
}

/** Mean over a cell and its neighbours. */
function voted(map: Float64Array, size: MapSize): Float64Array {
  return map.map((_, n) => {
    const near = neighbours(n, size);
    return near.reduce((sum, at) => sum + map[at]!, 0) / near.length;
  });
}

/** What is `value` shrinks by a cell, and grows again: specks of it go. For 1 this is opening, for 0 closing. */
function opened(mask: Float32Array, size: MapSize, value: 0 | 1): Float32Array {
  const shrunk = mask.map((own, n) =>
    neighbours(n, size).every((at) => mask[at] === value) ? value : own === value ? 1 - value : own,
  );
  return shrunk.map((own, n) => (neighbours(n, size).some((at) => shrunk[at] === value) ? value : own));
}

function neighbours(n: number, { height, width }: MapSize): number[] {
  const [y, x] = [Math.floor(n / width), n % width];
  const found: number[] = [];
  for (let row = Math.max(0, y - REACH); row <= Math.min(height - 1, y + REACH); row++) {
    for (let column = Math.max(0, x - REACH); column <= Math.min(width - 1, x + REACH); column++) {
      found.push(row * width + column);
    }
  }
  return found;
}
