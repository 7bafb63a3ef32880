import { afterAll, describe, expect, it } from 'vitest';
import { NumericalError, ShapeError } from '../../src/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { FREE_AXIS } from '../../src/graph/value.ts';
import { type CholeskyFactor, cholesky, conditionLowerBound, solveRows } from '../../src/linalg/cholesky.ts';
import { ASYNC_PANEL_WIDTH, choleskyAsync } from '../../src/linalg/cholesky-async.ts';
import { packFloat64 } from '../../src/linalg/gram.ts';
import { timesTransposed, transposedTimes } from '../../src/linalg/matmul-engine.ts';
import { type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { ReusedMemory } from '../../src/linalg/reused-memory.ts';
import { InterpreterRuntime } from '../../src/runtime/interpreter-runtime.ts';
import { GraphMatmulEngine } from '../../src/runtime/matmul-engine.ts';
import { OnnxRuntime } from '../../src/runtime/onnxruntime/onnx-runtime.ts';
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
      const factor = await choleskyAsync(a, engine);
      expect(relativeError(factor.toLower().lower, lowerTriangle(cholesky(copy(a))))).toBeLessThan(1e-12);
    },
  );

  it.each([1, 63, 255, 256, 257, 600])('solves as the plain solve does: %i unknowns', async (n) => {
    const a = gramOf(randomMatrix(n, n + 20, n));
    const factor = await choleskyAsync(packFloat64(a), engine);
    const b = randomMatrix(n + 1, 5, n);
    const before = copy(b);
    const x = await factor.solveRows(b);
    const plain = cholesky(a);
    expect(relativeError(x.data, solveRows(plain, b).data)).toBeLessThan(1e-11);
    expect(factor.condition / conditionLowerBound(plain)).toBeCloseTo(1, 10);
    expect(b.data).toEqual(before.data);
  });

  it('is the same in memory that held other numbers', async () => {
    const memory = new ReusedMemory();
    for (const n of [700, 130, 64]) {
      const a = gramOf(randomMatrix(n, n + 20, n));
      const b = randomMatrix(n + 1, 3, n);
      const factor = await choleskyAsync(packFloat64(a), engine, memory);
      expect((await factor.solveRows(b)).data).toEqual(
        (await (await choleskyAsync(packFloat64(a), engine)).solveRows(b)).data,
      );
      memory.reuse();
    }
  });

  it('keeps the digits that a product with an inverse loses', async () => {
    // Kahan's matrix: triangular, each row shorter by s, and its inverse large.
    const n = 3 * ASYNC_PANEL_WIDTH;
    const s = 10 ** (-3 / n);
    const x = matrix(n, n);
    for (let i = 0; i < n; i++) {
      x.data.fill(-Math.sqrt(1 - s * s) * s ** i, i * n + i, (i + 1) * n);
      x.data[i * n + i] = s ** i;
    }
    const a = gramOf(x);
    for (let i = 0; i < n; i++) a.data[i * n + i]! *= 1 + 1e-13;
    const lower = matrix(n, n, (await choleskyAsync(a, engine)).toLower().lower);
    expect(relativeError(naiveProduct(lower, transpose(lower)).data, a.data)).toBeLessThan(1e-15);
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

describe('products of transposed operands', () => {
  it.each([undefined, 2 ** 13])(
    'are those of turned ones, in runs of %s multiplications',
    async (mostProducts) => {
      const engine = new GraphMatmulEngine({ threads: 1, mostProducts });
      const [a, b, c] = [randomMatrix(1, 300, 40), randomMatrix(2, 300, 24), randomMatrix(3, 70, 40)];
      const left = await transposedTimes(engine.multiply, a, b);
      expect([left.rows, left.cols]).toEqual([40, 24]);
      expect(relativeError(left.data, naiveProduct(transpose(a), b).data)).toBeLessThan(1e-14);
      const right = await timesTransposed(engine.multiply, a, c);
      expect([right.rows, right.cols]).toEqual([300, 70]);
      expect(relativeError(right.data, naiveProduct(a, transpose(c)).data)).toBeLessThan(1e-14);
      await expect(transposedTimes(engine.multiply, a, c)).rejects.toThrow('[300, 40]ᵀ and [70, 40]');
      await engine.dispose();
    },
  );
});

it('refuses a matrix that is not square', async () => {
  await expect(choleskyAsync(matrix(3, 4), graph.multiply)).rejects.toThrow(ShapeError);
  const factor = await choleskyAsync(gramOf(randomMatrix(1, 9, 4)), graph.multiply);
  await expect(factor.solveRows(matrix(2, 5))).rejects.toThrow(ShapeError);
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

describe.each([new InterpreterRuntime(), new OnnxRuntime()])('a product with free axes', (runtime) => {
  it(`takes matrices of any size: ${runtime.traits.name}`, async () => {
    const g = new GraphBuilder();
    const free = [FREE_AXIS, FREE_AXIS];
    g.output('c', matmul(g, g.input('a', 'float64', free), g.input('b', 'float64', free)));
    const product = await runtime.load(g.finish(), 'once');
    const tensor = ({ rows, cols, data }: Matrix) =>
      ({ dtype: 'float64', shape: [rows, cols], data }) as const;
    for (const [m, n, k] of [
      [2, 3, 4],
      [5, 1, 2],
      [1, 70, 3],
    ] as const) {
      const [a, b] = [randomMatrix(m, m, n), randomMatrix(n, n, k)];
      const { c } = await product.run({ a: tensor(a), b: tensor(b) });
      expect(c!.shape).toEqual([m, k]);
      expect(c!.data).toBeAllClose(naiveProduct(a, b).data, { rtol: 1e-14 });
    }
    const vector = { dtype: 'float64', shape: [3], data: new Float64Array(3) } as const;
    await expect(product.run({ a: vector, b: vector })).rejects.toThrow(ShapeError);
    await product.dispose();
    await runtime.dispose();
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
