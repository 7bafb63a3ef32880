/** A⁺ by its four properties (Penrose), square, tall and wide. */
import { describe, expect, it } from 'vitest';
import { NumericalError } from '../../src/errors.ts';
import { type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';
import { pseudoInverseSteps } from '../../src/linalg/pseudo-inverse.ts';
import { inOneGo } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const random = (rows: number, cols: number): Matrix =>
  matrix(rows, cols, Float64Array.from(new TorchGenerator(rows * 100 + cols).randn(rows * cols)));

describe('pseudo-inverse', () => {
  it.each([
    [7, 7],
    [9, 4],
    [4, 9],
    [1, 1],
  ])('of [%i, %i]', (rows, cols) => {
    const a = random(rows, cols);
    const x = inOneGo(pseudoInverseSteps(a));
    expect([x.rows, x.cols]).toEqual([cols, rows]);
    const [ax, xa] = [multiply(a, x), multiply(x, a)];
    expect(multiply(ax, a).data).toBeAllClose(a.data, { rtol: 0, atol: 1e-10 });
    expect(multiply(xa, x).data).toBeAllClose(x.data, { rtol: 0, atol: 1e-10 });
    expect(transpose(ax).data).toBeAllClose(ax.data, { rtol: 0, atol: 1e-10 });
    expect(transpose(xa).data).toBeAllClose(xa.data, { rtol: 0, atol: 1e-10 });
  });

  it('of a matrix without full rank is refused', () => {
    const a = random(5, 3);
    for (let i = 0; i < 5; i++) a.data[i * 3 + 2] = a.data[i * 3]! - 2 * a.data[i * 3 + 1]!;
    expect(() => inOneGo(pseudoInverseSteps(a))).toThrow(NumericalError);
    expect(() => inOneGo(pseudoInverseSteps(matrix(2, 2)))).toThrow(/full rank/);
  });
});
