/**
 * Attention regularisation of ED-LoRA: where the concept's words look is held to the mask. Needs two words, the first
 * an "adjective" (looks anywhere inside the mask), the second the "subject".
 *
 *   maps_r = cross-attention probabilities of a word, mean over heads and over the layers of resolution r, divided by
 *            their maximum over the whole batch
 *   term   = weight · Σ_r [ subject: mean (map − mask)², or the mean of map where mask = 0 ] + [ adjective: mean of map
 *            where mask = 0 ]
 *
 * Source: TencentARC/Mix-of-Show, mixofshow/pipelines/trainer_edlora.py (cal_attn_reg), `reg_full_identity` picks the
 * subject's form.
 */
import type { GraphBuilder } from '../graph/builder.ts';
import { joinHeads, splitHeads } from '../graph/ops/attention.ts';
import { add, div, mul, stopGradient, sub } from '../graph/ops/elementwise.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { concat, slice } from '../graph/ops/movement.ts';
import { softmax } from '../graph/ops/normalization.ts';
import { reduceMax, reduceMean, reduceSum } from '../graph/ops/reduction.ts';
import type { Value } from '../graph/value.ts';
import { linear } from '../models/layers.ts';
import { type Attentions, attention } from '../models/unet/attention.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';

/** Adjective and subject. */
export const REGULARIZED_WORDS = 2;

/** Probability maps per level, one per cross-attention, as they are written. */
export type AttentionMaps = Map<number, Value[]>;

export interface TrainingAttentionOptions {
  /** Collect maps [B, N, 2] of two words whose places are the input of this name, one-hot [B, 1, T, 2]. */
  readonly maps?: { readonly into: AttentionMaps; readonly positions: Value };
  /** The first text token's keys and values get no gradient (Custom Diffusion). Default false. */
  readonly detachFirstToken?: boolean;
}

/** Attention as training needs it: with maps of words, or with the first token detached. */
export function trainingAttentions(
  contextOf: (index: number) => Value,
  { maps, detachFirstToken = false }: TrainingAttentionOptions,
): Attentions {
  const detached = (g: GraphBuilder, x: Value): Value =>
    detachFirstToken
      ? concat(g, [stopGradient(g, slice(g, x, 1, 0, 1)), slice(g, x, 1, 1, x.shape[1]!)], 1)
      : x;
  return {
    self: (net, x, { numHeads }) => attention(net, x, x, numHeads),
    cross: (net, x, { index, numHeads, level }) => {
      const { g } = net;
      const out = x.shape[2]!;
      const context = contextOf(index);
      const q = splitHeads(g, linear(net, x, 'to_q', { out, bias: false }), numHeads);
      const heads = (name: string): Value =>
        splitHeads(g, detached(g, linear(net, context, name, { out, bias: false })), numHeads);
      const scores = matmul(g, q, heads('to_k'), { transB: true, alpha: 1 / Math.sqrt(out / numHeads) });
      const probabilities = softmax(g, scores);
      if (maps !== undefined) {
        const ofWords = reduceMean(g, matmul(g, probabilities, maps.positions), [1], false);
        maps.into.set(level, [...(maps.into.get(level) ?? []), ofWords]);
      }
      const attended = joinHeads(g, matmul(g, probabilities, heads('to_v')));
      return linear(net, attended, 'to_out.0', { out });
    },
  };
}

/** Graph inputs at one level: the mask, and weights that average what lies outside it; both [B, N]. */
export const maskInput = (level: number): string => `attention_mask.${level}`;
export const outsideInput = (level: number): string => `attention_outside.${level}`;

/** Write the term without its weight. Adds the inputs `maskInput` and `outsideInput` of every level. */
export function attentionTerm(g: GraphBuilder, maps: AttentionMaps, fullIdentity: boolean): Value {
  const terms = [...maps].map(([level, layers]) =>
    g.scope(`attention_regularization.${level}`, () => {
      const sum = layers.reduce((total, map) => add(g, total, map));
      const mean = mul(g, sum, g.scalar(1 / layers.length));
      g.output(`attention_maps.${level}`, mean);
      const shape = mean.shape.slice(0, 2);
      const mask = g.input(maskInput(level), 'float32', shape);
      const outside = g.input(outsideInput(level), 'float32', shape);
      const [adjective, subject] = [0, 1].map((word) => {
        const map = reduceSum(g, slice(g, mean, 2, word, word + 1), [2], false);
        return div(g, map, reduceMax(g, map, [0, 1]));
      }) as [Value, Value];
      const meanOutside = (map: Value): Value => reduceSum(g, mul(g, map, outside), [0, 1], false);
      const difference = sub(g, subject, mask);
      const ofSubject = fullIdentity
        ? reduceMean(g, mul(g, difference, difference), [0, 1], false)
        : meanOutside(subject);
      return add(g, ofSubject, meanOutside(adjective));
    }),
  );
  return terms.reduce((total, term) => add(g, total, term));
}

/**
 * The inputs of the term.
 * @param masks  [B, h, w] of zeros and ones
 * @param levels height and width of the attention maps, by level
 * @returns feeds, and whether the term counts: where a resized mask has no zero the reference's mean is not a
 *   number and it leaves the whole term out for that step
 */
export function attentionTargets(
  masks: Float32Array,
  batch: number,
  size: { readonly height: number; readonly width: number },
  levels: ReadonlyMap<number, { readonly height: number; readonly width: number }>,
): { feeds: Record<string, Tensor>; counts: boolean } {
  const feeds: Record<string, Tensor> = {};
  let counts = true;
  for (const [level, { height, width }] of levels) {
    const mask = float32([batch, height * width]);
    for (let b = 0; b < batch; b++) {
      for (let i = 0; i < height; i++) {
        const row = Math.floor((i * size.height) / height);
        for (let j = 0; j < width; j++) {
          const column = Math.floor((j * size.width) / width);
          mask.data[(b * height + i) * width + j] = masks[(b * size.height + row) * size.width + column]!;
        }
      }
    }
    const zeros = mask.data.reduce((count, value) => count + (value === 0 ? 1 : 0), 0);
    if (zeros === 0) counts = false;
    feeds[maskInput(level)] = mask;
    feeds[outsideInput(level)] = float32(
      mask.shape,
      mask.data.map((value) => (value === 0 ? 1 / zeros : 0)),
    );
  }
  return { feeds, counts };
}

/** One-hot [B, 1, T, 2] over the places of the two words in each row's ids; zeros where a row has none. */
export function wordPositions(rows: readonly (readonly [number, number] | null)[], tokens: number): Tensor {
  const positions = float32([rows.length, 1, tokens, REGULARIZED_WORDS]);
  rows.forEach((places, b) => {
    places?.forEach((place, word) => {
      positions.data[(b * tokens + place) * REGULARIZED_WORDS + word] = 1;
    });
  });
  return positions;
}
