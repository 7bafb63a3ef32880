/** Which tokens of a prompt a word is, and how much attention they get. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Concept words that a prompt holds, in the vocabulary's order. @throws {UsageError} if it holds none */
export function conceptWords(prompt: string, { tokens }: BoundVocabulary): string[] {
  const matcher = new WordMatcher(
    tokens.map(({ word }) => word),
    PROMPT_WORDS,
  );
  const held = new Set(matcher.find(prompt).map(({ word }) => word));
  const words = tokens.map(({ word }) => word).filter((word) => held.has(word));
  if (words.length > 0) return words;
  throw new UsageError(`attention maps: "${prompt}" holds no concept word; name words of it`);
}

/**
 * Positions of each word's tokens among the first 77, per cross-attention layer: [word][layer][occurrence].
 * @throws {UsageError} if a word is not there
 */
export function wordPositions(
  prompt: string,
  words: readonly string[],
  vocabulary: BoundVocabulary,
): number[][][] {
  const ids = vocabulary.encode(prompt, { pad: true });
  return words.map((word) => {
    const spelled = vocabulary.encode(word, { pad: false });
    return spelled.map((own, layer) => {
      const found = occurrences(ids[layer]!, own.slice(1, -1));
      if (found.length > 0) return found;
      throw new UsageError(`attention maps: "${word}" is no word of "${prompt}"`);
    });
  });
}

/** Positions of every occurrence of `part` in `ids`, all of its tokens. */
function occurrences(ids: readonly number[], part: readonly number[]): number[] {
  const found: number[] = [];
  for (let start = 0; part.length > 0 && start + part.length <= ids.length; start++) {
    if (part.every((id, i) => ids[start + i] === id)) found.push(...part.map((_, i) => start + i));
  }
  return found;
}

/**
 * Attention probabilities of tokens, averaged over heads: softmax_t(q_n · k_t / √d).
 * @param query [N, heads · d], @param key [T, heads · d]
 * @param columns per word the token positions whose probabilities are added up
 * @returns per word [N]
 */
export function wordAttention(
  query: Tensor<Float32Array>,
  key: Tensor<Float32Array>,
  numHeads: number,
  columns: readonly (readonly number[])[],
): Float64Array[] {
  const [rows, width] = query.shape as [number, number];
  const tokens = key.shape[0]!;
  const d = width / numHeads;
  const scale = 1 / Math.sqrt(d);
  const shares = columns.map(() => new Float64Array(rows));
  const scores = new Float64Array(tokens);
  for (let n = 0; n < rows; n++) {
    for (let head = 0; head < numHeads; head++) {
      const from = n * width + head * d;
      let highest = Number.NEGATIVE_INFINITY;
      for (let t = 0; t < tokens; t++) {
        const at = t * width + head * d;
        let dot = 0;
        for (let k = 0; k < d; k++) dot += query.data[from + k]! * key.data[at + k]!;
        scores[t] = dot * scale;
        highest = Math.max(highest, scores[t]!);
      }
      let total = 0;
      for (let t = 0; t < tokens; t++) {
        scores[t] = Math.exp(scores[t]! - highest);
        total += scores[t]!;
      }
      columns.forEach((own, word) => {
        for (const t of own) shares[word]![n]! += scores[t]! / total / numHeads;
      });
    }
  }
  return shares;
}
