/** Seeded random matrices for property tests. */
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';

/** Uniform numbers in [0, 1), the same for the same seed (mulberry32). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** [m, n] of standard normal numbers. */
export function randomMatrix(seed: number, m: number, n: number): Matrix {
  const next = uniform(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return matrix(m, n, Float64Array.from({ length: m * n }, normal));
}

/** [m, n] of rank ≤ `rank`. */
export function randomOfRank(seed: number, m: number, n: number, rank: number): Matrix {
  return multiply(randomMatrix(seed, m, rank), randomMatrix(seed + 1, rank, n));
}

/** A B by the definition, one sum an element: the judge of the blocked products. */
export function naiveProduct(a: Matrix, b: Matrix): Matrix {
  const result = matrix(a.rows, b.cols);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < b.cols; j++) {
      let total = 0;
      for (let k = 0; k < a.cols; k++) total += a.data[i * a.cols + k]! * b.data[k * b.cols + j]!;
      result.data[i * b.cols + j] = total;
    }
  }
  return result;
}
