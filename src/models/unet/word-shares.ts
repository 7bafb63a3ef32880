/**
 * What a UNet tells of words beside its prediction: how much of a cross-attention's probability goes to each word in every row,
 *
 *   share_w(n) = mean over heads of Σ_{t ∈ w} softmax_t(q_n · k_t / √d)
 *
 * The keys are those of the prompt that is listened to, which need not be one that the network draws.
 */
import { splitHeads } from '../../graph/ops/attention.ts';
import { matmul } from '../../graph/ops/matmul.ts';
import { slice } from '../../graph/ops/movement.ts';
import { softmax } from '../../graph/ops/normalization.ts';
import { reduceMean } from '../../graph/ops/reduction.ts';
import type { Value } from '../../graph/value.ts';
import type { NetworkBuilder } from '../network.ts';

export interface Listening {
  /** Cross-attentions that tell, `….attn2`. */
  readonly layers: ReadonlySet<string>;
  /** W. */
  readonly words: number;
  /** Text positions T of the prompt. */
  readonly tokens: number;
  /** Rows of the batch that tell, the first and one past the last: those with the prompt. */
  readonly rows: readonly [from: number, to: number];
}

/** Input [R, T, C] of a cross-attention: the keys of the prompt that is listened to, for the rows that tell. */
export const heardKeyInput = (attentionName: string): string => `${attentionName}.heard_key`;
/** Input [T, W] of a cross-attention: 1 where a token belongs to a word, else 0. */
export const heardWordsInput = (attentionName: string): string => `${attentionName}.heard_words`;
/** Output [R, N, W] of a cross-attention. */
export const sharesOutput = (attentionName: string): string => `${attentionName}.word_shares`;
/** Output [R, N, C] of a cross-attention: the queries themselves, which say how like positions are. */
export const queriesOutput = (attentionName: string): string => `${attentionName}.queries`;

/** Write what the cross-attention of the current scope tells. @param q [B, N, C] */
export function tellWords(net: NetworkBuilder, q: Value, numHeads: number, listening: Listening): void {
  const { g, path } = net;
  const { layers, words, tokens } = listening;
  if (!layers.has(path)) return;
  const [from, to] = listening.rows;
  const width = q.shape[2]!;
  const own = from === 0 && to === q.shape[0] ? q : slice(g, q, 0, from, to);
  const keys = g.input(heardKeyInput(path), 'float32', [to - from, tokens, width]);
  const columns = g.input(heardWordsInput(path), 'float32', [tokens, words]);
  const scores = matmul(g, splitHeads(g, own, numHeads), splitHeads(g, keys, numHeads), {
    transB: true,
    alpha: 1 / Math.sqrt(width / numHeads),
  });
  const perHead = matmul(g, softmax(g, scores), columns);
  g.output(sharesOutput(path), reduceMean(g, perHead, [1], false));
  g.output(queriesOutput(path), own);
}
