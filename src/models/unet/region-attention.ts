/**
 * Cross-attention over several texts, each in its share of the picture, and self-attention kept inside shares.
 *
 *   y_n = Σ_s w_s(n) · attention(q_n; K_s, V_s),   Σ_s w_s(n) = 1,   s = 0 the context, s ≥ 1 the regions
 *
 * K_s and V_s do not depend on the step; they come in as inputs (see keys-values.ts). Each source is computed for the
 * rows where its weight is not zero, and nowhere else: rows are gathered per source, attended, and gathered back, as
 * often as sources overlap. With boxes and equal weights this is the attention of Mix-of-Show's regional pipeline
 * (TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/pipeline_regionally_t2iadapter.py).
 */
import type { GraphBuilder } from '../../graph/builder.ts';
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { conv } from '../../graph/ops/convolution.ts';
import { add, mul } from '../../graph/ops/elementwise.ts';
import { concat, gather, split } from '../../graph/ops/movement.ts';
import { groupNorm } from '../../graph/ops/normalization.ts';
import type { Value } from '../../graph/value.ts';
import { linear } from '../layers.ts';
import type { ConvWriter, GroupNormWriter, NetworkBuilder } from '../network.ts';
import { type Attentions, attention } from './attention.ts';
import { partAttention } from './part-attention.ts';
import { PART_KERNEL, partConv, type Seams } from './part-conv.ts';
import { type PartMatrices, partGroupNorm } from './part-norm.ts';
import type { AttentionPlace } from './structure.ts';
import { textEmbedsInput, timeIdsInput } from './time-embedding.ts';
import { type Listening, tellWords } from './word-shares.ts';

/** How sources share the rows of one resolution. Only sizes: the numbers are fed. */
export interface LevelLayout {
  /** Rows that each source is computed for; 0: not at all. */
  readonly rows: readonly number[];
  /** How many sources a row takes at most, ≥ 1. */
  readonly depth: number;
  /** Whether any weight differs from 1. */
  readonly weighted: boolean;
  /**
   * Parts that are kept apart: rows of a part attend to that part, those of the last (the background) to all; group norms take
   * their statistics from the same rows, and convolutions read no others. `null`: all see all.
   */
  readonly apart: PartsLayout | null;
}

/** Parts whose borders the network is written for. */
export interface PartsLayout {
  /** Of each part. */
  readonly rows: readonly number[];
  /** Where convolutions would read over borders. */
  readonly seams: SeamCounts;
}

/** By a convolution's stride: seams of its output, the first of each included. */
export type SeamCounts = Readonly<Record<number, number>>;

/** Of the convolutions that read neighbours: one that stays at its level, one that goes to the next. */
export const SEAM_STRIDES = [1, 2] as const;

export interface SourceLayout {
  /** Text positions T of each source; source 0 is the context. */
  readonly tokens: readonly number[];
  /** By level, 0 at full size. */
  readonly levels: readonly LevelLayout[];
}

/** The layout of one text everywhere. @param rows number of rows per level */
export function plainLayout(tokens: number, rows: readonly number[]): SourceLayout {
  const level = (count: number): LevelLayout => ({
    rows: [count],
    depth: 1,
    weighted: false,
    apart: null,
  });
  return { tokens: [tokens], levels: rows.map(level) };
}

/** Input [B, T, C] of a cross-attention (`….attn2`): the keys of a source. */
export const keyInput = (attentionName: string, source: number): string => `${attentionName}.key.${source}`;
/** Input [B, T, C] of a cross-attention (`….attn2`): the values of a source. */
export const valueInput = (attentionName: string, source: number): string =>
  `${attentionName}.value.${source}`;

/** Names of a source's inputs: keys, values, and in UNets that read them the pooled text and the sizes. @param names of the cross-attentions */
export const sourceInputs = (names: readonly string[], source: number): string[] => [
  ...names.flatMap((name) => [keyInput(name, source), valueInput(name, source)]),
  textEmbedsInput(source),
  timeIdsInput(source),
];

/** Names of a level's inputs. */
export const levelInputs = {
  /** int64 [Σ rows]: the row of the picture behind each computed row, source by source. */
  rows: (level: number): string => `level.${level}.rows`,
  /** int64 [N]: which computed row is a row's `overlap`-th contribution. */
  places: (level: number, overlap: number): string => `level.${level}.places.${overlap}`,
  /** [1, N, 1]: the weight of that contribution; 0 where a row has fewer. */
  weights: (level: number, overlap: number): string => `level.${level}.weights.${overlap}`,
  /** [S, N]: the weights of the sources, where UNets read their pooled texts. */
  shares: (level: number): string => `level.${level}.shares`,
  /** int64 [N]: rows of the picture, part by part. */
  partRows: (level: number): string => `level.${level}.part_rows`,
  /** int64 [N]: where in that order each row stands. */
  partPlaces: (level: number): string => `level.${level}.part_places`,
  /** [N, P]: 1 where a part's statistics include a row. */
  partMembers: (level: number): string => `level.${level}.part_members`,
  /** [N, P]: 1 where a row belongs to a part. */
  partOwners: (level: number): string => `level.${level}.part_owners`,
  /** Of convolutions from a level with a stride: what `Seams` of part-conv.ts has. */
  seamTaps: (level: number, stride: number): string => `level.${level}.seam_taps.${stride}`,
  seamForeign: (level: number, stride: number): string => `level.${level}.seam_foreign.${stride}`,
  seamPlaces: (level: number, stride: number): string => `level.${level}.seam_places.${stride}`,
} as const;

/** Whether sources keep to themselves. */
export function keptApart({ levels }: SourceLayout): boolean {
  return levels.some(({ apart }) => apart !== null);
}

/** Is a source alone and everywhere? Then rows need not move. */
function onlySource({ rows, depth }: LevelLayout, count: number): number | null {
  const source = rows.indexOf(count);
  return depth === 1 && source >= 0 ? source : null;
}

/** The attentions of a UNet whose texts share the picture as `layout` says. @param listening what is told of words. Default nothing */
export function sharedAttentions(layout: SourceLayout, listening: Listening | null = null): Attentions {
  const inputs = new Map<string, Value>();
  const once = (name: string, make: () => Value): Value => {
    const value = inputs.get(name) ?? make();
    inputs.set(name, value);
    return value;
  };
  const indices = (g: GraphBuilder, name: string, count: number): Value =>
    once(name, () => g.input(name, 'int64', [count]));

  const attend = (net: NetworkBuilder, q: Value, source: number, { numHeads }: AttentionPlace): Value => {
    const [batch, , width] = q.shape as [number, number, number];
    const shape = [batch, layout.tokens[source]!, width];
    const k = net.g.input(keyInput(net.path, source), 'float32', shape);
    const v = net.g.input(valueInput(net.path, source), 'float32', shape);
    return multiHeadAttention(net.g, { q, k, v }, numHeads);
  };

  const blended = (net: NetworkBuilder, q: Value, place: AttentionPlace): Value => {
    const { g } = net;
    const { level } = place;
    const { rows, depth, weighted } = layout.levels[level]!;
    const count = q.shape[1]!;
    const weightsOf = (overlap: number): Value => {
      const name = levelInputs.weights(level, overlap);
      return once(name, () => g.input(name, 'float32', [1, count, 1]));
    };
    // Each source's contribution to a row is that of its own number.
    if (rows.every((n) => n === count) && depth === rows.length) {
      const parts = rows.map((_, source) => mul(g, attend(net, q, source, place), weightsOf(source)));
      return parts.reduce((sum, part) => add(g, sum, part));
    }
    const total = rows.reduce((sum, n) => sum + n, 0);
    const picked = gather(g, q, indices(g, levelInputs.rows(level), total), 1);
    const present = rows.flatMap((n, source) => (n > 0 ? [{ source, n }] : []));
    const queries = split(
      g,
      picked,
      present.map(({ n }) => n),
      1,
    );
    const attended = concat(
      g,
      present.map(({ source }, i) => attend(net, queries[i]!, source, place)),
      1,
    );
    let result: Value | null = null;
    for (let overlap = 0; overlap < depth; overlap++) {
      let part = gather(g, attended, indices(g, levelInputs.places(level, overlap), count), 1);
      if (weighted) part = mul(g, part, weightsOf(overlap));
      result = result === null ? part : add(g, result, part);
    }
    return result!;
  };

  return {
    cross: (net, x, place) => {
      const out = x.shape[2]!;
      const q = linear(net, x, 'to_q', { out, bias: false });
      if (listening !== null) tellWords(net, q, place.numHeads, listening);
      const alone = onlySource(layout.levels[place.level]!, x.shape[1]!);
      const y = alone === null ? blended(net, q, place) : attend(net, q, alone, place);
      return linear(net, y, 'to_out.0', { out });
    },
    self: (net, x, place) => {
      const { apart } = layout.levels[place.level]!;
      if (apart === null) return attention(net, x, x, place.numHeads);
      const { g } = net;
      const count = x.shape[1]!;
      return partAttention(net, x, place.numHeads, {
        sizes: apart.rows,
        rows: indices(g, levelInputs.partRows(place.level), count),
        places: indices(g, levelInputs.partPlaces(place.level), count),
      });
    },
  };
}

/**
 * Group norms of a UNet whose layout keeps parts of the picture apart.
 * @param levels size of the latents at each level
 */
export function sharedGroupNorm(
  { levels: layouts }: SourceLayout,
  levels: readonly { readonly height: number; readonly width: number }[],
): GroupNormWriter {
  const inputs = new Map<number, PartMatrices>();
  return (g, x, weight, bias, options) => {
    const [, , height, width] = x.shape as [number, number, number, number];
    const level = levels.findIndex((size) => size.height === height && size.width === width);
    const apart = layouts[level]?.apart ?? null;
    if (apart === null) return groupNorm(g, x, weight, bias, options);
    const shape = [height * width, apart.rows.length];
    const matrices = inputs.get(level) ?? {
      members: g.input(levelInputs.partMembers(level), 'float32', shape),
      owners: g.input(levelInputs.partOwners(level), 'float32', shape),
    };
    inputs.set(level, matrices);
    return partGroupNorm(g, x, weight, bias, options, matrices);
  };
}

/**
 * Convolutions of a UNet whose layout keeps parts of the picture apart.
 * @param levels size of the latents at each level
 */
export function sharedConv(
  { levels: layouts }: SourceLayout,
  levels: readonly { readonly height: number; readonly width: number }[],
): ConvWriter {
  const inputs = new Map<string, Seams>();
  return (g, x, weight, bias, options) => {
    const [, , height, width] = x.shape as [number, number, number, number];
    const level = levels.findIndex((size) => size.height === height && size.width === width);
    const { stride } = options;
    const apart = layouts[level]?.apart ?? null;
    if (weight.shape[2] !== PART_KERNEL || apart === null) return conv(g, x, weight, bias, options);
    const count = apart.seams[stride] ?? 0;
    if (count <= 1) return conv(g, x, weight, bias, options);
    const key = levelInputs.seamTaps(level, stride);
    const taps = [PART_KERNEL, PART_KERNEL * count];
    const rows = Math.ceil(height / stride) * Math.ceil(width / stride);
    const seams = inputs.get(key) ?? {
      taps: g.input(key, 'int64', taps),
      foreign: g.input(levelInputs.seamForeign(level, stride), 'float32', taps),
      places: g.input(levelInputs.seamPlaces(level, stride), 'int64', [rows]),
    };
    inputs.set(key, seams);
    return partConv(g, x, weight, bias, options, seams);
  };
}
