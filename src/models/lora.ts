/** Deltas of linear layers as the runtime inputs of a network that was written with `loraRanks`. */
import { ShapeError } from '../errors.ts';
import { type LowRank, rankOf, sum } from '../linalg/low-rank.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import type { Layer, LayerId } from './families/layer-table.ts';
import { loraDownInput, loraUpInput } from './network.ts';

/** ΔW [m, n] of layers of a base, by id, every scale and strength inside. */
export type ModelDeltas = ReadonlyMap<LayerId, LowRank>;

/** ΔW [m, n] of layers of one network, by layer name. */
export type LayerDeltas = ReadonlyMap<string, LowRank>;

/**
 * Several sets of deltas on one base: layer by layer the exact sum, factors side by side.
 * @param strengths of the sets; one of 0 is left out. Default 1 each
 */
export function sumDeltas<K extends string>(
  sets: readonly ReadonlyMap<K, LowRank>[],
  strengths: readonly number[] = [],
): ReadonlyMap<K, LowRank> {
  const perLayer = new Map<K, { deltas: LowRank[]; strengths: number[] }>();
  for (const [i, deltas] of sets.entries()) {
    const strength = strengths[i] ?? 1;
    if (strength === 0) continue;
    for (const [name, delta] of deltas) {
      const own = perLayer.get(name) ?? { deltas: [], strengths: [] };
      own.deltas.push(delta);
      own.strengths.push(strength);
      perLayer.set(name, own);
    }
  }
  return new Map([...perLayer].map(([name, own]) => [name, sum(own.deltas, own.strengths)]));
}

/** The rank of each delta: what `NetworkOptions.loraRanks` wants. */
export function deltaRanks(deltas: LayerDeltas): Map<string, number> {
  return new Map([...deltas].map(([layerName, delta]) => [layerName, rankOf(delta)]));
}

/** The larger rank of each layer: one network that serves both sets of deltas. */
export function commonRanks(sets: Iterable<LayerDeltas>): Map<string, number> {
  const ranks = new Map<string, number>();
  for (const deltas of sets) {
    for (const [layerName, rank] of deltaRanks(deltas)) {
      ranks.set(layerName, Math.max(rank, ranks.get(layerName) ?? 0));
    }
  }
  return ranks;
}

/**
 * Feeds for every layer of `ranks`: the delta's factors, filled up with zeros to the layer's rank, which changes
 * nothing; all zeros for a layer without a delta.
 * @param ranks  as the network was written
 * @param layers every layer in `ranks`, by name
 * @throws {ShapeError} if a delta has a higher rank than its layer, another shape, or no layer
 */
export function deltaFeeds(
  deltas: LayerDeltas,
  ranks: ReadonlyMap<string, number>,
  layers: ReadonlyMap<string, Pick<Layer, 'm' | 'n'>>,
): Record<string, Tensor> {
  for (const layerName of deltas.keys()) {
    if (!ranks.has(layerName))
      throw new ShapeError(`${layerName}: the network has no factors for this layer`);
  }
  const feeds: Record<string, Tensor> = {};
  for (const [layerName, rank] of ranks) {
    const { m, n } = layers.get(layerName)!;
    const down = float32([rank, n]);
    const up = float32([m, rank]);
    const delta = deltas.get(layerName);
    if (delta !== undefined) {
      const own = rankOf(delta);
      if (own > rank || delta.up.rows !== m || delta.down.cols !== n) {
        throw new ShapeError(
          `${layerName}: expected factors of [${m}, ${n}] and rank ≤ ${rank}, got [${delta.up.rows}, ${delta.down.cols}] of rank ${own}`,
        );
      }
      down.data.set(delta.down.data);
      for (let i = 0; i < m; i++) up.data.set(delta.up.data.subarray(i * own, (i + 1) * own), i * rank);
    }
    feeds[loraDownInput(layerName)] = down;
    feeds[loraUpInput(layerName)] = up;
  }
  return feeds;
}
