/** Changes as factors beside and on top of each other, against the same written out. */
import { expect, it } from 'vitest';
import { ShapeError } from '../../src/errors.ts';
import { type LowRank, toDense } from '../../src/linalg/low-rank.ts';
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import {
  FactorAddition,
  type JoinedFactors,
  joinFactors,
  stackFactors,
  transposedFactors,
} from '../../src/merging/factor-addition.ts';
import { naiveProduct, randomMatrix } from '../support/matrices.ts';

const [m, n] = [5, 4];
const change = (seed: number, rank: number, rows = m): LowRank => ({
  up: randomMatrix(seed, rows, rank),
  down: randomMatrix(seed + 1, rank, n),
});
const dense = ({ m: rows, n: cols, rank, up, down }: JoinedFactors): Matrix =>
  naiveProduct(matrix(rows, rank, Float64Array.from(up)), matrix(rank, cols, Float64Array.from(down)));
const terms = [
  { delta: change(1, 2), factor: 0.5 },
  { delta: change(3, 1), factor: -2 },
];
const expected = terms
  .map(({ delta, factor }) => toDense(delta).data.map((value) => factor * value))
  .reduce((a, b) => a.map((value, i) => value + b[i]!));

it('side by side they are their scaled sum', () => {
  const joined = joinFactors('layer', m, n, terms);
  expect(joined).toMatchObject({ m, n, rank: 3 });
  expect(dense(joined).data).toBeAllClose(expected, { rtol: 1e-6 });
  for (const other of [change(5, 2, m + 1), { ...change(5, 2), down: randomMatrix(6, 2, n + 1) }]) {
    expect(() => joinFactors('layer', m, n, [{ delta: other, factor: 1 }])).toThrow(ShapeError);
  }
});

it('turned they are the transposed change', () => {
  const turned = transposedFactors(joinFactors('layer', m, n, terms));
  expect(turned).toMatchObject({ m: n, n: m, rank: 3 });
  const { data } = dense(turned);
  expect(Float64Array.from({ length: m * n }, (_, i) => data[(i % n) * m + Math.floor(i / n)]!)).toBeAllClose(
    expected,
    { rtol: 1e-6 },
  );
});

it('of different rows they are one change, and the rows of none stay', () => {
  const first = joinFactors('first', 2, n, [{ delta: change(7, 2, 2), factor: 1 }]);
  const second = joinFactors('second', 3, n, [{ delta: change(9, 1, 3), factor: -1 }]);
  const stacked = stackFactors(7, [
    { firstRow: 1, factors: first },
    { firstRow: 4, factors: second },
  ]);
  expect(stacked).toMatchObject({ m: 7, n, rank: 3 });
  const rows = Float64Array.from([
    ...new Float64Array(n),
    ...dense(first).data,
    ...new Float64Array(n),
    ...dense(second).data,
  ]);
  expect(dense(stacked).data).toBeAllClose(rows, { rtol: 1e-6 });
  expect(stackFactors(2, [{ firstRow: 0, factors: first }])).toBe(first);
});

it('are added to some rows of a weight', async () => {
  const joined = joinFactors('layer', m, n, terms);
  const weight = Float32Array.from(randomMatrix(11, 2, n).data);
  const target = new Float32Array(2 * n);
  const addition = new FactorAddition();
  await addition.addRows(joined, 3, weight, target);
  await addition.dispose();
  expect(target).toBeAllClose(
    weight.map((value, i) => value + expected[3 * n + i]!),
    { rtol: 1e-5 },
  );
});
