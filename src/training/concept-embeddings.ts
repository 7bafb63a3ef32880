/** Embeddings of new words: where they start, and how far they have gone. */
import { UsageError } from '../errors.ts';
import type { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import type { ClipTokenizer } from '../models/clip/tokenizer.ts';
import type { TorchGenerator } from '../tensor/random.ts';

/**
 * The first vector of a word.
 * @param init `<rand-0.013>` for normals of that deviation, or a word of the vocabulary that is one token
 * @throws {UsageError} for another form, and for words of several tokens, which are named
 */
export function initialVector(
  init: string,
  tokenizer: ClipTokenizer,
  embeddings: TokenEmbeddings,
  random: TorchGenerator,
): Float32Array {
  const sigma = /^<rand-(.*)>$/.exec(init)?.[1];
  if (sigma !== undefined) {
    const deviation = Number(sigma);
    if (sigma.trim() === '' || !(deviation >= 0 && Number.isFinite(deviation))) {
      throw new UsageError(`init "${init}": expected <rand-σ> with a number, e.g. <rand-0.013>`);
    }
    return random.randn(embeddings.width).map((value) => value * deviation);
  }
  const ids = tokenizer.encode(init).slice(1, -1);
  if (ids.length !== 1) {
    const pieces = ids.map((id) => `"${tokenizer.decode([id]).trim()}"`).join(', ');
    throw new UsageError(
      ids.length === 0
        ? 'init: expected a word, got nothing'
        : `init "${init}": expected a word that is one token, it splits into ${ids.length}: ${pieces}; choose a more common word or <rand-0.013>`,
    );
  }
  return embeddings.row(ids[0]!).slice();
}

/** Mean Euclidean norm of the rows of [rows, width]. */
export function meanRowNorm(rows: Float32Array, width: number): number {
  const count = rows.length / width;
  let total = 0;
  for (let r = 0; r < count; r++) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += rows[r * width + i]! ** 2;
    total += Math.sqrt(squares);
  }
  return total / count;
}
