import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../src/errors.ts';
import {
  addGramTo,
  GramAccumulator,
  gramStrips,
  gramTrace,
  multiplyByGram,
  packedSymmetric,
  packFloat64,
  quadraticTrace,
  toDenseGram,
} from '../../src/linalg/gram.ts';
import { type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { GramProducts } from '../../src/linalg/products-async.ts';
import { naiveProduct, randomMatrix } from '../support/matrices.ts';

const seed = fc.integer({ min: 0, max: 2 ** 31 });
const width = fc.integer({ min: 1, max: 70 });

describe('GramAccumulator', () => {
  it('is XᵀX, however the rows are divided into batches', () => {
    fc.assert(
      fc.property(
        width,
        fc.array(fc.integer({ min: 0, max: 90 }), { maxLength: 4 }),
        seed,
        (n, batches, s) => {
          const gram = new GramAccumulator(n);
          const rows = batches.reduce((total, count) => total + count, 0);
          const x = Float32Array.from(randomMatrix(s, rows, n).data);
          let at = 0;
          for (const count of batches) {
            gram.addRows(x.subarray(at, at + count * n));
            at += count * n;
          }
          const wide = matrix(rows, n, Float64Array.from(x));
          const expected = naiveProduct(transpose(wide), wide);
          expect(gram.rows).toBe(rows);
          expect(gram.toMatrix().data).toBeAllClose(expected.data, { rtol: 1e-13, atol: 1e-300 });
          expect(gram.trace()).toBeCloseTo(gramTrace(expected), 8);
        },
      ),
      { numRuns: 25, seed: 1 },
    );
  });

  it('adds Gram matrices computed elsewhere, as the mean of their halves, and scales', () => {
    const gram = new GramAccumulator(2);
    gram.addGram(Float32Array.of(4, 1, 3, 8), 5);
    gram.addRows(Float32Array.of(1, 2));
    gram.scale(0.5);
    expect(gram.rows).toBe(6);
    expect([...gram.toMatrix().data]).toEqual([2.5, 2, 2, 6]);
    expect([...gram.toPacked().packed]).toEqual([2.5, 2, 6]);
  });

  it.each([3, 255, 258])('adds the strips of a matrix of %d rows', (n) => {
    const dense = matrix(n, n);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) dense.data[i * n + j] = Math.max(i, j) + 1 / (1 + i + j);
    const strips = gramStrips(n).flatMap(({ start, end }) =>
      Array.from({ length: end - start }, (_, k) => {
        const from = (start + k) * n;
        return [...dense.data.subarray(from + start, from + n)];
      }).flat(),
    );
    const gram = new GramAccumulator(n);
    for (let times = 0; times < 2; times++) gram.addStrips(Float64Array.from(strips), 5);
    expect(gram.rows).toBe(10);
    expect(gram.toMatrix().data).toEqual(dense.data.map((value) => 2 * value));
    expect(strips.length < 0.7 * n * n).toBe(n >= 256);
    expect(() => gram.addStrips(new Float64Array(strips.length - 1), 5)).toThrow(ShapeError);
  });

  it('refuses what does not fit', () => {
    const gram = new GramAccumulator(3);
    expect(() => gram.addRows(new Float32Array(4))).toThrow(ShapeError);
    expect(() => gram.addGram(new Float32Array(6), 1)).toThrow(ShapeError);
    expect(() => packedSymmetric(3, new Float32Array(5))).toThrow(ShapeError);
  });
});

describe('packed and dense Gram matrices', () => {
  it('agree in every operation', () => {
    fc.assert(
      fc.property(width, fc.integer({ min: 0, max: 6 }), seed, (n, k, s) => {
        const x = randomMatrix(s, n, n);
        const g = naiveProduct(transpose(x), x);
        const packed = packFloat64(g);
        const dense = toDenseGram(packed);
        expect(dense.data).toEqual(g.data);
        expect(toDenseGram(packedSymmetric(n, Float32Array.from(packed.packed))).data).toEqual(
          Float64Array.from(Float32Array.from(g.data)),
        );
        const a = randomMatrix(s + 1, k, n);
        const product = naiveProduct(a, dense).data;
        expect(multiplyByGram(a, packed).data).toBeAllClose(product, { rtol: 1e-12, atol: 1e-300 });
        expect(multiplyByGram(a, dense).data).toBeAllClose(product, { rtol: 1e-12, atol: 1e-300 });
        expect(gramTrace(packed)).toBe(gramTrace(dense));
        expect(quadraticTrace(a, packed)).toBeCloseTo(quadraticTrace(a, dense), 6);
        const total = randomMatrix(s + 2, n, n);
        const other = matrix(n, n, Float64Array.from(total.data));
        addGramTo(total, packed, -2);
        addGramTo(other, dense, -2);
        expect(total.data).toEqual(other.data);
      }),
      { numRuns: 25, seed: 1 },
    );
  });

  it('given by their rows are the same matrices', () => {
    fc.assert(
      fc.property(width, fc.integer({ min: 0, max: 9 }), seed, (n, rows, s) => {
        const features = randomMatrix(s, rows, n);
        const dense = naiveProduct(transpose(features), features);
        const a = randomMatrix(s + 1, 3, n);
        const close = { rtol: 1e-12, atol: 1e-300 };
        expect(toDenseGram({ features }).data).toBeAllClose(dense.data, close);
        expect(multiplyByGram(a, { features }).data).toBeAllClose(multiplyByGram(a, dense).data, close);
        expect([gramTrace({ features })]).toBeAllClose([gramTrace(dense)], close);
        expect([quadraticTrace(a, { features })]).toBeAllClose([quadraticTrace(a, dense)], close);
        const total = matrix(n, n);
        addGramTo(total, { features }, -2);
        expect(total.data).toBeAllClose(
          dense.data.map((value) => -2 * value),
          close,
        );
      }),
      { numRuns: 25, seed: 1 },
    );
    expect(() => multiplyByGram(matrix(1, 3), { features: matrix(4, 2) })).toThrow(ShapeError);
  });

  it.each([255, 256, 257, 600])('meet an engine strip by strip: %i wide', async (n) => {
    let products = 0;
    const engine = async (a: Matrix, b: Matrix) => {
      products++;
      return naiveProduct(a, b);
    };
    const grams = new GramProducts(engine);
    const a = randomMatrix(9, 3, n);
    for (const s of [1, 2]) {
      const rows = randomMatrix(s, 20, n);
      const packed = packFloat64(naiveProduct(transpose(rows), rows));
      const rounded = { size: n, packed: Float32Array.from(packed.packed) };
      for (const gram of [packed, rounded]) {
        const product = await grams.multiply(a, gram);
        expect(product.data).toBeAllClose(multiplyByGram(a, gram).data, { rtol: 1e-12, atol: 1e-11 });
      }
    }
    expect(products).toBe(n < 256 ? 0 : 4 * 2 * Math.ceil(n / 256));
    const many = randomMatrix(7, 140, n);
    const gram = packFloat64(naiveProduct(transpose(a), a));
    const into = matrix(140, n);
    const product = await grams.multiply(many, gram, into);
    expect(product.data).toBeAllClose(multiplyByGram(many, gram).data, { rtol: 1e-12, atol: 1e-11 });
    await expect(grams.multiply(matrix(3, n - 1), matrix(n, n))).rejects.toThrow(ShapeError);
  });

  it('refuse other sizes', () => {
    const packed = packedSymmetric(2, new Float32Array(3));
    expect(() => multiplyByGram(matrix(1, 3), packed)).toThrow(ShapeError);
    expect(() => addGramTo(matrix(3, 3), packed, 1)).toThrow(ShapeError);
  });
});
