/**
 * What a layer of an adapter costs once its factors are multiplied out, held to what the layer can be: shapes stand in
 * files, and a few kilobytes of factors can claim any size. Everything here is told from shapes; nothing is read.
 */
import { elementCount, type RawTensor } from '../formats/raw-tensor.ts';
import type { AdapterModule } from '../models/families/adapter-layers.ts';
import { ADAPTER_FAMILIES } from '../models/families/families.ts';
import {
  isUnlisted,
  LARGEST_UNLISTED_WEIGHT,
  LARGEST_WEIGHT,
  largestShapeOf,
  type WeightShape,
} from '../models/families/largest-shapes.ts';
import type { AdapterLayer, FullFactor, LayerWeights, PairFactor } from './adapter.ts';

/** Factors of a layer at most: four times the largest rank that a weight of either model can have. */
export const MAX_RANK = 5120;
/** Layers of one adapter at most: SDXL has about 1,100 that can be trained. */
export const MAX_LAYERS = 10_000;
/** Numbers that all layers of one adapter change at most: SDXL has 3.5 · 10⁹, the largest models of other families 10¹¹. */
export const MAX_CHANGED_NUMBERS = 2 ** 32;
export const MAX_UNLISTED_NUMBERS = 2 ** 37;

/** Sizes of a layer's change. */
export interface LayerExtent {
  /** [outputs, inputs · kernel] of ΔW; `null` where only the base tells it. NaN beyond 2^53. */
  readonly shape: WeightShape | null;
  /** Factors side by side: the largest rank in the file. 0 for kinds without factors. */
  readonly rank: number;
  /** Numbers of the largest factor that is made by working a Tucker core into it; 0 without. */
  readonly coreNumbers: number;
}

const columnsOf = ({ shape }: RawTensor): number => elementCount(shape.slice(1));

interface FactorExtent {
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
  readonly coreNumbers: number;
}

function pairExtent({ a, b, core }: PairFactor): FactorExtent {
  if (core === null)
    return {
      rows: a.shape[0]!,
      columns: columnsOf(b),
      rank: Math.max(columnsOf(a), b.shape[0]!),
      coreNumbers: 0,
    };
  const columns = columnsOf(b) * elementCount(core.shape.slice(2));
  const rank = Math.max(core.shape[0]!, core.shape[1]!);
  return { rows: columnsOf(a), columns, rank, coreNumbers: core.shape[0]! * columns };
}

function factorExtent(factor: PairFactor | FullFactor): FactorExtent {
  return 'full' in factor
    ? { rows: factor.full.shape[0] ?? 1, columns: columnsOf(factor.full), rank: 0, coreNumbers: 0 }
    : pairExtent(factor);
}

/** What a layer's tensors say of its sizes. */
export function layerExtent(weights: LayerWeights): LayerExtent {
  switch (weights.kind) {
    case 'lora': {
      const { up, down, mid } = weights;
      if (mid === null) {
        return { shape: [up.shape[0]!, columnsOf(down)], rank: down.shape[0]!, coreNumbers: 0 };
      }
      const columns = columnsOf(down) * elementCount(mid.shape.slice(2));
      const rank = Math.max(mid.shape[0]!, mid.shape[1]!);
      return { shape: [up.shape[0]!, columns], rank, coreNumbers: mid.shape[0]! * columns };
    }
    case 'loha': {
      const [x, y] = [pairExtent(weights.w1), pairExtent(weights.w2)];
      return {
        shape: [Math.max(x.rows, y.rows), Math.max(x.columns, y.columns)],
        rank: Math.max(x.rank, y.rank),
        coreNumbers: Math.max(x.coreNumbers, y.coreNumbers),
      };
    }
    case 'lokr': {
      const [x, y] = [factorExtent(weights.w1), factorExtent(weights.w2)];
      return {
        shape: [x.rows * y.rows, x.columns * y.columns],
        rank: Math.max(x.rank, y.rank),
        coreNumbers: Math.max(x.coreNumbers, y.coreNumbers),
      };
    }
    case 'ia3':
      return { shape: null, rank: 0, coreNumbers: 0 };
    case 'diff':
      return { shape: [weights.diff.shape[0]!, columnsOf(weights.diff)], rank: 0, coreNumbers: 0 };
    case 'weight':
      return { shape: [weights.weight.shape[0]!, columnsOf(weights.weight)], rank: 0, coreNumbers: 0 };
  }
}

/**
 * Why a layer is larger than its weight can be, with both numbers; `null` if it is not.
 * @returns a sentence part that reads after the layer's name
 */
export function excessOf(module: AdapterModule, weights: LayerWeights): string | null {
  const { shape, rank, coreNumbers } = layerExtent(weights);
  if (!(rank <= MAX_RANK)) return `expected a rank of at most ${MAX_RANK}, got ${rank}`;
  if (!(coreNumbers <= LARGEST_WEIGHT)) {
    return `expected a Tucker core that makes at most ${LARGEST_WEIGHT} numbers, got ${coreNumbers}`;
  }
  if (shape === null) return null;
  const [rows, columns] = largestShapeOf(module);
  const unlisted = isUnlisted(module);
  const largest = Math.min(rows * columns, unlisted ? LARGEST_UNLISTED_WEIGHT : LARGEST_WEIGHT);
  const [m, n] = shape;
  return m <= rows && n <= columns && m * n <= largest
    ? null
    : `expected a change of at most [${rows}, ${columns}], ${largest} numbers${unlisted ? '' : `, as in ${ADAPTER_FAMILIES.map(({ title }) => title).join(' and ')}`}, got [${m}, ${n}], ${m * n} numbers`;
}

/** Factors that a layer has once it is plain LoRA, as merging/delta.ts makes them; 0 where only the base tells it. */
export function factorRank(layer: AdapterLayer): number {
  const { shape } = layerExtent(layer);
  if (shape === null) return 0;
  const full = Math.min(...shape);
  if (layer.doraScale !== null) return full;
  switch (layer.kind) {
    case 'lora':
      return layer.mid === null ? layer.down.shape[0]! : layer.mid.shape[0]!;
    case 'loha':
      return Math.min(full, pairRank(layer.w1) * pairRank(layer.w2));
    case 'lokr': {
      const rankOf = (factor: PairFactor | FullFactor): number => {
        const { rows, columns } = factorExtent(factor);
        return 'full' in factor ? Math.min(rows, columns) : pairRank(factor);
      };
      return Math.min(full, rankOf(layer.w1) * rankOf(layer.w2));
    }
    default:
      return full;
  }
}

/** Columns of a pair's first factor, once a core is worked into the second. */
function pairRank({ a, core }: PairFactor): number {
  return core === null ? columnsOf(a) : core.shape[0]!;
}
