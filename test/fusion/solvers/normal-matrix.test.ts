/** The matrix of the normal equations with sums by the engine, judged by the plain one. */
import { describe, expect, it } from 'vitest';
import {
  absoluteWeights,
  normalMatrix,
  normalMatrixWith,
} from '../../../src/fusion/solvers/normal-matrix.ts';
import type { InputProblem } from '../../../src/fusion/solvers/problem.ts';
import { type GramTerm, packFloat64, toDenseGram } from '../../../src/linalg/gram.ts';
import { ReusedMemory } from '../../../src/linalg/reused-memory.ts';
import { inOneGo, Pace } from '../../../src/pace.ts';
import { gramOf } from '../../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../../support/matrices.ts';

/** The sum is made some rows at a time. */
const n = 300;
const engine = async (...[a, b]: Parameters<typeof naiveProduct>) => naiveProduct(a, b);

const exact = (seed: number): GramTerm => packFloat64(gramOf(randomMatrix(seed, 90, n)));
const rounded = (seed: number): GramTerm => {
  const { size, packed } = packFloat64(gramOf(randomMatrix(seed, 90, n)));
  return { size, packed: Float32Array.from(packed) };
};
const dense = (seed: number): GramTerm => gramOf(randomMatrix(seed, 90, n));
const rows = (seed: number, count: number): GramTerm => ({ features: randomMatrix(seed, count, n) });

const input = (grams: readonly GramTerm[], memory?: ReusedMemory): InputProblem => ({
  inputName: 'layer',
  inputSize: n,
  grams,
  preserve: { gram: exact(99), weight: 0.7 },
  ridge: 1e-2,
  ...(memory === undefined ? {} : { memory }),
});

describe('the normal matrix with an engine', () => {
  it.each([
    ['one', [exact(1)]],
    ['two', [exact(1), exact(2)]],
    ['nine packed ones', Array.from({ length: 9 }, (_, i) => exact(i))],
    ['all forms', [exact(1), rounded(2), exact(3), dense(4), rows(5, 3), exact(6), exact(7), rows(8, 400)]],
  ])('is the plain one: %s', async (_, grams) => {
    const problem = input(grams);
    const weights = absoluteWeights(problem);
    const packed = await normalMatrixWith(engine, problem, weights, new Pace());
    const plain = inOneGo(normalMatrix(problem, weights));
    expect(toDenseGram(packed).data).toBeAllClose(plain.data, { rtol: 1e-13, atol: 1e-11 });
  });

  it('does not see what the memory held', async () => {
    const memory = new ReusedMemory();
    memory.take(n * n).fill(Number.NaN);
    memory.reuse();
    const problem = input([exact(1), exact(2)], memory);
    const weights = absoluteWeights(problem);
    const packed = await normalMatrixWith(engine, problem, weights, new Pace());
    const plain = inOneGo(normalMatrix(problem, weights));
    expect(toDenseGram(packed).data).toBeAllClose(plain.data, { rtol: 1e-13, atol: 1e-11 });
  });
});

describe('reused memory', () => {
  it('gives each its own, and all of them again', () => {
    const memory = new ReusedMemory();
    const [a, b] = [memory.take(5).fill(1), memory.take(7).fill(2)];
    expect([a.length, b.length]).toEqual([5, 7]);
    expect(a).toEqual(new Float64Array(5).fill(1));
    memory.reuse();
    expect(memory.take(3).buffer).toBe(a.buffer);
    const wider = memory.take(9);
    expect(wider.length).toBe(9);
    expect(wider.buffer).not.toBe(b.buffer);
  });
});
