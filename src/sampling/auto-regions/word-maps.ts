/**
 * What a picture at work says of where words are: the attention that positions give them, and how like positions are to those that
 * give most. Both on the cells of the latents, whatever level they were told at.
 */
import type { HeardLayer } from '../word-listening.ts';
import { enlarged, type MapSize } from './map-numbers.ts';

/** Share of the positions that stand for a word: FreeFuse's choice. */
const SEED_SHARE = 0.1;

export class WordMaps {
  readonly size: MapSize;
  readonly words: number;
  /** By level and word: attention relative to the layer's mean, summed. */
  readonly #sums: readonly { readonly size: MapSize; readonly maps: readonly Float64Array[] }[];
  readonly #memory: number;
  #weight = 0;
  #last: readonly HeardLayer[] = [];

  /**
   * @param levels of the UNet; the first is that of the latents
   * @param memory what earlier steps count for when another is heard, 0 … 1
   */
  constructor(words: number, levels: readonly MapSize[], memory: number) {
    this.#memory = memory;
    this.words = words;
    this.size = levels[0]!;
    this.#sums = levels.map((size) => ({
      size,
      maps: Array.from({ length: words }, () => new Float64Array(size.height * size.width)),
    }));
  }

  /** One step of one picture. */
  add(layers: readonly HeardLayer[]): void {
    this.#last = layers;
    this.#weight = this.#memory * this.#weight + 1;
    for (const { maps } of this.#sums)
      for (const map of maps) for (let n = 0; n < map.length; n++) map[n]! *= this.#memory;
    for (const { place, shares } of layers) {
      const { maps } = this.#sums[place.level]!;
      maps.forEach((map, word) => {
        const mean = meanOf(map.length, (n) => shares[n * this.words + word]!);
        for (let n = 0; n < map.length; n++) map[n]! += shares[n * this.words + word]! / mean / layers.length;
      });
    }
  }

  /** By word: attention of every cell, 1 on average. */
  attention(): Float64Array[] {
    return Array.from({ length: this.words }, (_, word) => {
      const all = new Float64Array(this.size.height * this.size.width);
      for (const { size, maps } of this.#sums) {
        const own = enlarged(maps[word]!, size, this.size);
        for (let n = 0; n < all.length; n++) all[n]! += own[n]! / this.#weight;
      }
      return all;
    });
  }

  /** By word: how like every cell's queries are to those of the cells with most attention, −1 … 1. */
  likeness(): Float64Array[] {
    const layers = this.#last;
    return Array.from({ length: this.words }, (_, word) => {
      const all = new Float64Array(this.size.height * this.size.width);
      for (const { place, queries } of layers) {
        const { size, maps } = this.#sums[place.level]!;
        const own = enlarged(likenessOf(queries, maps[word]!), size, this.size);
        for (let n = 0; n < all.length; n++) all[n]! += own[n]! / layers.length;
      }
      return all;
    });
  }
}

function meanOf(count: number, value: (n: number) => number): number {
  let sum = 0;
  for (let n = 0; n < count; n++) sum += value(n);
  return sum / count;
}

/** Cosine of each row, less the mean row, with the mean of the rows that have most attention. @param queries [N, C] */
function likenessOf(queries: Float32Array, attention: Float64Array): Float64Array {
  const count = attention.length;
  const width = queries.length / count;
  const order = Array.from(attention.keys()).sort((a, b) => attention[b]! - attention[a]! || a - b);
  const seeds = order.slice(0, Math.max(1, Math.round(SEED_SHARE * count)));
  const mean = new Float64Array(width);
  for (let i = 0; i < queries.length; i++) mean[i % width]! += queries[i]! / count;
  const seed = new Float64Array(width);
  for (const n of seeds) for (let c = 0; c < width; c++) seed[c]! += queries[n * width + c]! - mean[c]!;
  const length = Math.hypot(...seed);
  return Float64Array.from({ length: count }, (_, n) => {
    let [dot, square] = [0, 0];
    for (let c = 0; c < width; c++) {
      const value = queries[n * width + c]! - mean[c]!;
      dot += value * seed[c]!;
      square += value * value;
    }
    return dot / (length * Math.sqrt(square) + 1e-12);
  });
}
