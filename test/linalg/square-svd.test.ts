/** The SVD of square matrices has the bits of ml-matrix's, from which it was taken, whatever the matrix is like. */
import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import { describe, expect, it } from 'vitest';
import { NumericalError } from '../../src/errors.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { squareSvdSteps } from '../../src/linalg/square-svd.ts';
import { inOneGo } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

/** What is at (i, j), from a number in [−½, ½). */
const kinds: Record<string, (value: number, i: number, j: number) => number> = {
  dense: (value) => value,
  'upper triangular': (value, i, j) => (j < i ? 0 : value),
  zero: () => 0,
  identity: (_, i, j) => (i === j ? 1 : 0),
  'rows of zeros': (value, i, j) => (i % 2) * (j % 3) * value,
  'many magnitudes': (value, i, j) => value * 10 ** -(i + j),
  'small whole numbers': (value) => Math.round(2 * value),
  'above the diagonal only': (value, i, j) => (i === j - 1 ? value : 0),
};

describe.each(Object.entries(kinds))('%s', (_, at) => {
  it.each([1, 2, 3, 5, 8, 33])('%i × %i', (n) => {
    const random = new TorchGenerator(n).randFloat64(n * n);
    const a = matrix(
      n,
      n,
      random.map((value, k) => at(value - 0.5, Math.floor(k / n), k % n)),
    );
    const expected = new SingularValueDecomposition(Matrix.from1DArray(n, n, a.data));
    const { u, singularValues, v } = inOneGo(squareSvdSteps(a));
    // Zeros of either sign are equal.
    const same = (own: Float64Array, other: readonly number[]): boolean =>
      own.length === other.length && own.every((value, i) => value === other[i]);
    expect(same(singularValues, expected.diagonal)).toBe(true);
    expect(same(u.data, expected.leftSingularVectors.to1DArray())).toBe(true);
    expect(same(v.data, expected.rightSingularVectors.to1DArray())).toBe(true);
  });
});

it('ends on numbers that it cannot work with', () => {
  const huge = matrix(
    3,
    3,
    new Float64Array(9).fill(Number.MAX_VALUE).map((value, i) => (i % 2 ? -value : value)),
  );
  try {
    inOneGo(squareSvdSteps(huge));
  } catch (error) {
    expect(error).toBeInstanceOf(NumericalError);
  }
});
