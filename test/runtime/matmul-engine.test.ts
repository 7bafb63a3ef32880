import { afterAll, describe, expect, it } from 'vitest';
import { NumericalError, ShapeError } from '../../src/errors.ts';
import { type CholeskyFactor, cholesky, solveRows } from '../../src/linalg/cholesky.ts';
import { ASYNC_PANEL_WIDTH, choleskyAsync, solveRowsAsync } from '../../src/linalg/cholesky-async.ts';
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { GraphMatmulEngine } from '../../src/runtime/matmul-engine.ts';
import { relativeError } from '../support/close.ts';
import { gramOf } from '../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../support/matrices.ts';

const graph = new GraphMatmulEngine({ threads: 1 });
afterAll(() => graph.dispose());

const copy = (a: Matrix) => matrix(a.rows, a.cols, Float64Array.from(a.data));

function lowerTriangle({ size, lower }: CholeskyFactor): Float64Array {
  return lower.map((value, i) => (i % size <= Math.floor(i / size) ? value : 0));
}

const engines = {
  'plain loops': async (a: Matrix, b: Matrix) => naiveProduct(a, b),
  'the graph runtime': graph.multiply,
};

describe.each(Object.entries(engines))('Cholesky with products by %s', (_, engine) => {
  it.each([1, ASYNC_PANEL_WIDTH, ASYNC_PANEL_WIDTH + 1, 2 * ASYNC_PANEL_WIDTH, 300])(
    'gives the factor of the plain one: %i rows',
    async (n) => {
      const a = gramOf(randomMatrix(n, n + 20, n));
      const factor = await choleskyAsync(copy(a), engine);
      expect(relativeError(lowerTriangle(factor), lowerTriangle(cholesky(copy(a))))).toBeLessThan(1e-12);
    },
  );

  it.each([1, 255, 256, 257, 600])('solves as the plain solve does: %i unknowns', async (n) => {
    const factor = cholesky(gramOf(randomMatrix(n, n + 20, n)));
    const b = randomMatrix(n + 1, 5, n);
    const before = copy(b);
    const x = await solveRowsAsync(factor, b, engine, 0);
    expect(relativeError(x.data, solveRows(factor, b).data)).toBeLessThan(1e-11);
    expect(b.data).toEqual(before.data);
  });

  it('reports the bad pivot, in the first panel and behind it', async () => {
    for (const pivot of [5, ASYNC_PANEL_WIDTH + 7]) {
      const a = gramOf(randomMatrix(3, 250, 200));
      a.data[pivot * 200 + pivot] = -1;
      await expect(choleskyAsync(a, engine)).rejects.toThrow(NumericalError);
      const again = gramOf(randomMatrix(3, 250, 200));
      again.data[pivot * 200 + pivot] = -1;
      await expect(choleskyAsync(again, engine)).rejects.toThrow(`at pivot ${pivot}`);
    }
  });
});

it('refuses a matrix that is not square', async () => {
  await expect(choleskyAsync(matrix(3, 4), graph.multiply)).rejects.toThrow(ShapeError);
  const factor = cholesky(gramOf(randomMatrix(1, 9, 4)));
  await expect(solveRowsAsync(factor, matrix(2, 5), graph.multiply, 0)).rejects.toThrow(ShapeError);
});

describe('products in the graph runtime', () => {
  it('are those of plain loops, in float64, with sessions reused and renewed', async () => {
    const engine = new GraphMatmulEngine({ threads: 1 });
    try {
      for (let round = 0; round < 2; round++) {
        for (let k = 1; k <= 70; k++) {
          const a = randomMatrix(k, 3, k);
          const b = randomMatrix(k + 1, k, 2);
          expect((await engine.multiply(a, b)).data).toBeAllClose(naiveProduct(a, b).data, { rtol: 1e-14 });
        }
      }
      await expect(engine.multiply(matrix(2, 3), matrix(4, 2))).rejects.toThrow(ShapeError);
    } finally {
      await engine.dispose();
    }
  });
});

it('multiplies some rows at a time to the same bits', async () => {
  const small = new GraphMatmulEngine({ threads: 1, mostProducts: 5000 });
  try {
    const [a, b] = [randomMatrix(4, 37, 61), randomMatrix(5, 61, 29)];
    expect((await small.multiply(a, b)).data).toEqual((await graph.multiply(a, b)).data);
    await expect(small.multiply(a, a)).rejects.toThrow(ShapeError);
  } finally {
    await small.dispose();
  }
});
