/** Weighted sums of latents, so that a sampler's update reads as its formula. */
import { ShapeError } from '../errors.ts';

/** A coefficient and the latents it scales. */
export type Term = readonly [coefficient: number, values: Float32Array];

/**
 * Σ coefficient · values, accumulated in float64, rounded once to float32.
 * @throws {ShapeError} if the terms differ in length
 */
export function combine(...terms: readonly Term[]): Float32Array {
  const length = terms[0]?.[1].length ?? 0;
  const sum = new Float64Array(length);
  for (const [coefficient, values] of terms) {
    if (values.length !== length) {
      throw new ShapeError(
        `linear combination: expected ${length} numbers in every term, got ${values.length}`,
      );
    }
    for (let i = 0; i < length; i++) sum[i] = sum[i]! + coefficient * values[i]!;
  }
  return Float32Array.from(sum);
}

/** Every value clamped to [−limit, limit]. */
export function clampAll(values: Float32Array, limit: number): Float32Array {
  return values.map((value) => Math.min(Math.max(value, -limit), limit));
}
