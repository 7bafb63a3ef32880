import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../src/errors.ts';
import { identity, matrix, transpose } from '../../src/linalg/matrix.ts';
import { addSymmetricProduct, multiply, multiplyTransposed } from '../../src/linalg/products.ts';
import { naiveProduct, randomMatrix } from '../support/matrices.ts';

const size = fc.integer({ min: 0, max: 75 });
const seed = fc.integer({ min: 0, max: 2 ** 31 });

describe('products', () => {
  it('multiply and multiplyTransposed agree with the definition', () => {
    fc.assert(
      fc.property(size, size, size, seed, (m, n, k, s) => {
        const a = randomMatrix(s, m, n);
        const b = randomMatrix(s + 1, n, k);
        const expected = naiveProduct(a, b).data;
        expect(multiply(a, b).data).toBeAllClose(expected, { rtol: 1e-12, atol: 1e-300 });
        expect(multiplyTransposed(a, transpose(b)).data).toBeAllClose(expected, {
          rtol: 1e-12,
          atol: 1e-300,
        });
      }),
      { numRuns: 40, seed: 1 },
    );
  });

  it('a symmetric update touches the lower triangle of its block and nothing else', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 150 }), fc.integer({ min: 1, max: 20 }), seed, (n, depth, s) => {
        const stride = n + 3;
        const start = 2 * stride + 1;
        const before = randomMatrix(s, n + 4, stride).data;
        const panel = randomMatrix(s + 1, n, depth);
        const square = naiveProduct(panel, transpose(panel)).data;
        const after = Float64Array.from(before);
        addSymmetricProduct(after, start, stride, -0.5, panel.data, n, depth);
        for (let i = 0; i < n; i++) {
          for (let j = 0; j <= i; j++) before[start + i * stride + j]! -= 0.5 * square[i * n + j]!;
        }
        expect(after).toBeAllClose(before, { rtol: 1e-12 });
        for (let i = 0; i < n; i++) {
          const above = start + i * stride + i + 1;
          expect(after.subarray(above, above + n - i - 1)).toEqual(before.subarray(above, above + n - i - 1));
        }
      }),
      { numRuns: 30, seed: 1 },
    );
  });

  it('refuses operands that do not fit', () => {
    expect(() => multiply(matrix(2, 3), matrix(2, 3))).toThrow(ShapeError);
    expect(() => multiplyTransposed(matrix(2, 3), matrix(3, 2))).toThrow(ShapeError);
    expect(() => matrix(2, 2, new Float64Array(3))).toThrow(ShapeError);
  });

  it('identity is neutral', () => {
    const a = randomMatrix(1, 5, 7);
    expect(multiply(a, identity(7)).data).toEqual(a.data);
  });
});
