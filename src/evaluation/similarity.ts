/** Similarities of embeddings, and the two CLIP alignments made of them. */
import { ShapeError } from '../errors.ts';
import type { Embeddings } from '../models/clip/clip-encoder.ts';

/** Dot products of all rows of `a` with all rows of `b`, [a, b]: cosines, as rows have length 1. */
export function similarities(a: Embeddings, b: Embeddings): Float64Array {
  if (a.width !== b.width) throw new ShapeError(`embeddings: expected width ${a.width}, got ${b.width}`);
  const { width } = a;
  const result = new Float64Array(a.count * b.count);
  for (let i = 0; i < a.count; i++) {
    for (let j = 0; j < b.count; j++) {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += a.data[i * width + k]! * b.data[j * width + k]!;
      result[i * b.count + j] = sum;
    }
  }
  return result;
}

/**
 * CLIP image alignment of each sample: its mean cosine with the reference pictures. The mean over samples is the
 * mean pairwise cosine of Textual Inversion and Mix-of-Show.
 */
export function imageAlignment(samples: Embeddings, references: Embeddings): Float64Array {
  const all = similarities(samples, references);
  return Float64Array.from({ length: samples.count }, (_, i) =>
    mean(all.subarray(i * references.count, (i + 1) * references.count)),
  );
}

/** CLIP text alignment of each sample: its cosine with the text of the same index. */
export function textAlignment(samples: Embeddings, texts: Embeddings): Float64Array {
  if (samples.count !== texts.count || samples.width !== texts.width) {
    throw new ShapeError(
      `text alignment: expected [${samples.count}, ${samples.width}] texts, got [${texts.count}, ${texts.width}]`,
    );
  }
  const { width } = samples;
  return Float64Array.from({ length: samples.count }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < width; k++) sum += samples.data[i * width + k]! * texts.data[i * width + k]!;
    return sum;
  });
}

/** Arithmetic mean; NaN of nothing. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}
