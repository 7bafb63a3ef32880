/**
 * Which rows one pass of the network has. Of n pictures: with guidance the negative of each, then the positive of each;
 * without it the positive of each.
 */
import { type Conditioning, stackedConditioning } from '../models/families/conditioning.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { type Guidance, guide, guidedPair, isGuided } from './guidance.ts';

export class GuidedRows {
  /** n. */
  readonly pictures: number;
  readonly guidance: Guidance;
  readonly guided: boolean;
  /** B: rows of a pass. */
  readonly count: number;

  constructor(pictures: number, guidance: Guidance) {
    this.pictures = pictures;
    this.guidance = guidance;
    this.guided = isGuided(guidance.scale);
    this.count = guidedPair(guidance.scale, pictures, pictures).reduce((sum, rows) => sum + rows);
  }

  /** Rows of the pictures [n, …], to be predicted with and without prompts, as those of a pass [B, …]. */
  both(latents: Tensor<Float32Array>): Tensor<Float32Array> {
    if (!this.guided) return latents;
    const { shape, data } = latents;
    return float32([this.count, ...shape.slice(1)], joined([data, data]));
  }

  /** One number for every row, [B]. */
  filled(value: number): Tensor<Float32Array> {
    return float32([this.count], new Float32Array(this.count).fill(value));
  }

  /**
   * What a pass is conditioned on, B rows.
   * @param negative  of one row, for all pictures; not read without guidance
   * @param positives of one row each: one for each picture, or one for all
   */
  conditioning(negative: Conditioning, positives: readonly Conditioning[]): Conditioning {
    const each = <T>(all: readonly T[]): readonly T[] =>
      all.length === 1 ? Array<T>(this.pictures).fill(all[0]!) : all;
    return stackedConditioning(guidedPair(this.guidance.scale, each([negative]), each(positives)).flat());
  }

  /** Rows of the texts, [2, …] (negative, positive) or [1, …], repeated for every picture: [B, …]. */
  spread({ shape, data }: Tensor<Float32Array>): Tensor<Float32Array> {
    const size = data.length / shape[0]!;
    const rows = Array.from({ length: this.count }, (_, row) => {
      const text = Math.floor(row / this.pictures);
      return data.subarray(text * size, (text + 1) * size);
    });
    return float32([this.count, ...shape.slice(1)], joined(rows));
  }

  /** What the network predicted for all rows, [B, …], as the prediction of each picture, [n, …]. */
  prediction(output: Float32Array): Float32Array {
    return this.guided ? guide(output, this.pictures, this.guidance) : output;
  }

  /** The positive part of an output whose rows, [B · k, d], are those of the pass, k times finer. */
  positive({ shape, data }: Tensor): Tensor<Float32Array> {
    const own = (shape[0]! * this.pictures) / this.count;
    const width = data.length / shape[0]!;
    return float32([own, ...shape.slice(1)], (data as Float32Array).subarray((shape[0]! - own) * width));
  }
}

/** Arrays one after another; a single one as it is. */
export function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
