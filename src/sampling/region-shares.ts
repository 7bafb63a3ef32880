/**
 * Who rules where: weights of context and regions for every row of every resolution, as the layout that the UNet is
 * written with and the numbers that it is fed with.
 */
import { type LevelLayout, levelInputs, type SourceLayout } from '../models/unet/region-attention.ts';
import { float32, int64, type Tensor } from '../tensor/tensor.ts';
import { joined } from './guided-rows.ts';
import { coverage, type Region } from './region.ts';
import { type KeptApart, keepApart, partOwners } from './region-parts.ts';

/** Weights below this are nothing. */
const NEGLIGIBLE = 1e-6;

/**
 * Weights of the sources at one resolution, [1 + regions][height · width]; they sum to 1 in every row.
 *
 *   c = min(1, Σ m_i),   w_i = c · a_i m_i / Σ a_j m_j,   w_context = 1 − c
 *
 * with coverage m_i and the region's weight a_i. Boxes of weight 1 give the average by count.
 */
export function sourceWeights(regions: readonly Region[], height: number, width: number): Float32Array[] {
  const covers = regions.map(({ shape }) => coverage(shape, height, width));
  const context = new Float32Array(height * width).fill(1);
  const weights = regions.map(() => new Float32Array(height * width));
  for (let n = 0; n < context.length; n++) {
    let covered = 0;
    let weighted = 0;
    regions.forEach(({ weight = 1 }, i) => {
      covered += covers[i]![n]!;
      weighted += weight * covers[i]![n]!;
    });
    if (weighted <= NEGLIGIBLE) continue;
    const share = Math.min(1, covered);
    context[n] = share > 1 - NEGLIGIBLE ? 0 : 1 - share;
    regions.forEach(({ weight = 1 }, i) => {
      const own = (share * weight * covers[i]![n]!) / weighted;
      weights[i]![n] = own < NEGLIGIBLE ? 0 : own;
    });
  }
  return [context, ...weights];
}

export interface SharedPicture {
  readonly layout: SourceLayout;
  /** The inputs of region-attention.ts but for keys and values. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** By level: the weights of the sources, [source][N]. */
  readonly weights: readonly (readonly Float32Array[])[];
}

type Levels = readonly { readonly height: number; readonly width: number }[];

/**
 * By a network that is written for these regions: each source is computed where it has weight.
 * @param tokens   text positions of context and regions
 * @param levels   size of the UNet's latents at each level
 * @param isolated whether regions keep to themselves
 */
export function sharePicture(
  regions: readonly Region[],
  tokens: readonly number[],
  levels: Levels,
  isolated: boolean,
): SharedPicture {
  const weights = levels.map(({ height, width }) => sourceWeights(regions, height, width));
  const kept = isolated ? keepApart(weights.map(partOwners), tokens.length, levels) : null;
  return shared(weights, tokens, levels, kept, false);
}

/** By a network that serves any regions: every source is computed everywhere, and regions do not keep to themselves. */
export function shareAnyPicture(
  regions: readonly Region[],
  tokens: readonly number[],
  levels: Levels,
): SharedPicture {
  const weights = levels.map(({ height, width }) => sourceWeights(regions, height, width));
  return shared(weights, tokens, levels, null, true);
}

/** @param everywhere whether sources are computed where they have no weight too */
function shared(
  weights: readonly (readonly Float32Array[])[],
  tokens: readonly number[],
  levels: Levels,
  kept: KeptApart | null,
  everywhere: boolean,
): SharedPicture {
  const feeds: Record<string, Tensor> = {};
  const layouts = levels.map(({ height, width }, level): LevelLayout => {
    const { rows, places, perSource, weighted } = shareLevel(weights[level]!, height * width, everywhere);
    const shares = float32([tokens.length, height * width]);
    shares.data.set(joined(weights[level]!));
    feeds[levelInputs.shares(level)] = shares;
    feeds[levelInputs.rows(level)] = int64([rows.length], rows);
    places.forEach(({ from, weight }, overlap) => {
      feeds[levelInputs.places(level, overlap)] = int64([from.length], from);
      feeds[levelInputs.weights(level, overlap)] = float32([1, weight.length, 1], weight);
    });
    return { rows: perSource, depth: places.length, weighted, apart: kept?.levels[level] ?? null };
  });
  return { layout: { tokens, levels: layouts }, feeds: { ...feeds, ...kept?.feeds }, weights };
}

interface LevelShares {
  /** Rows that each source is computed for. */
  readonly perSource: readonly number[];
  /** Picture row of every computed row. */
  readonly rows: readonly number[];
  /** Per overlap: computed row and weight of every picture row. */
  readonly places: readonly { from: number[]; weight: number[] }[];
  readonly weighted: boolean;
}

function shareLevel(weights: readonly Float32Array[], count: number, everywhere: boolean): LevelShares {
  const rules = (weight: number): boolean => everywhere || weight > 0;
  const rows: number[] = [];
  const perSource = weights.map((own) => {
    const before = rows.length;
    own.forEach((weight, n) => {
      if (rules(weight)) rows.push(n);
    });
    return rows.length - before;
  });
  const places: { from: number[]; weight: number[] }[] = [];
  const taken = new Uint16Array(count);
  let computed = 0;
  weights.forEach((own) => {
    own.forEach((weight, n) => {
      if (!rules(weight)) return;
      const overlap = taken[n]!++;
      places[overlap] ??= {
        from: new Array<number>(count).fill(0),
        weight: new Array<number>(count).fill(0),
      };
      places[overlap].from[n] = computed++;
      places[overlap].weight[n] = weight;
    });
  });
  const weighted = everywhere || places.some(({ weight }) => weight.some((value) => value !== 1));
  return { perSource, rows, places, weighted };
}
