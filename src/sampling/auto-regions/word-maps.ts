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
    return Array.from({ length: this.words }, (_, word) =>
      this.#onCells(this.#sums.map(({ maps }) => maps[word]!)).map((value) => value / this.#weight),
    );
  }

  /** By word: how like every cell's queries are to those of the cells with most attention, −1 … 1. */
  likeness(): Float64Array[] {
    const byLevel = this.#sums.map(({ maps }) => maps.map((map) => new Float64Array(map.length)));
    for (const { place, queries } of this.#last) {
      const { maps } = this.#sums[place.level]!;
      const directions = directionsOf(queries, maps[0]!.length);
      maps.forEach((attention, word) => {
        const sum = byLevel[place.level]![word]!;
        likenessOf(directions, attention).forEach((value, n) => {
          sum[n]! += value / this.#last.length;
        });
      });
    }
    return Array.from({ length: this.words }, (_, word) => this.#onCells(byLevel.map((maps) => maps[word]!)));
  }

  /** Maps of all levels, added up on the cells of the latents. */
  #onCells(maps: readonly Float64Array[]): Float64Array {
    const all = new Float64Array(this.size.height * this.size.width);
    maps.forEach((map, level) => {
      const own = enlarged(map, this.#sums[level]!.size, this.size);
      for (let n = 0; n < all.length; n++) all[n]! += own[n]!;
    });
    return all;
  }
}

function meanOf(count: number, value: (n: number) => number): number {
  let sum = 0;
  for (let n = 0; n < count; n++) sum += value(n);
  return sum / count;
}

/** Rows less their mean, and how long each is. */
interface Directions {
  /** [N, C] */
  readonly rows: Float32Array;
  readonly lengths: Float64Array;
}

/** @param queries [N, C] */
function directionsOf(queries: Float32Array, count: number): Directions {
  const width = queries.length / count;
  const mean = new Float64Array(width);
  for (let n = 0; n < count; n++) for (let c = 0; c < width; c++) mean[c]! += queries[n * width + c]! / count;
  const rows = new Float32Array(queries.length);
  const lengths = new Float64Array(count);
  for (let n = 0; n < count; n++) {
    let square = 0;
    for (let c = 0; c < width; c++) {
      const value = queries[n * width + c]! - mean[c]!;
      rows[n * width + c] = value;
      square += value * value;
    }
    lengths[n] = Math.sqrt(square);
  }
  return { rows, lengths };
}

/** Cosine of each row with the mean of the rows that have most attention. */
function likenessOf({ rows, lengths }: Directions, attention: Float64Array): Float64Array {
  const count = attention.length;
  const width = rows.length / count;
  const order = Array.from(attention.keys()).sort((a, b) => attention[b]! - attention[a]! || a - b);
  const seed = new Float64Array(width);
  for (const n of order.slice(0, Math.max(1, Math.round(SEED_SHARE * count)))) {
    for (let c = 0; c < width; c++) seed[c]! += rows[n * width + c]!;
  }
  const length = Math.hypot(...seed);
  const cosines = new Float64Array(count);
  for (let n = 0; n < count; n++) {
    let dot = 0;
    for (let c = 0; c < width; c++) dot += rows[n * width + c]! * seed[c]!;
    cosines[n] = dot / (length * lengths[n]! + 1e-12);
  }
  return cosines;
}
