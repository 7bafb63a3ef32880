/** The solve on the side of the samples, judged by the one on the side of the features. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericalError, ShapeError } from '../../../src/errors.ts';
import { measureRetention } from '../../../src/fusion/report/retention.ts';
import {
  factoriseInput,
  factoriseInputWith,
  solveLayer,
  solveLayers,
} from '../../../src/fusion/solvers/least-squares.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { toDense } from '../../../src/linalg/low-rank.ts';
import { type Matrix, matrix } from '../../../src/linalg/matrix.ts';
import { relativeError } from '../../support/close.ts';
import { gramOf, type RandomProblemOptions, randomProblem } from '../../support/fusion-problems.ts';
import { naiveProduct, randomMatrix } from '../../support/matrices.ts';

/** A random problem, its terms once as Gram matrices and once as rows. */
function bothForms(options: RandomProblemOptions): { grams: LayerProblem; rows: LayerProblem } {
  const { layer, concepts, preservedFeatures } = randomProblem(options);
  const input = {
    ...layer.input,
    grams: concepts.map(({ features }) => ({ features })),
    preserve:
      preservedFeatures === null
        ? null
        : { gram: { features: preservedFeatures }, weight: layer.input.preserve!.weight },
  };
  return { grams: layer, rows: { ...layer, input } };
}

const fuse = (layer: LayerProblem) => toDense(solveLayer(factoriseInput(layer.input), layer)).data;

const fewRows = { seed: 4, m: 5, n: 20, ranks: [2, 3], rows: 4, ridge: 1e-2, preserve: null } as const;

describe('few rows', () => {
  it('give the same change on either side', () => {
    fc.assert(
      fc.property(
        fc.record({
          seed: fc.integer({ min: 0, max: 2 ** 30 }),
          m: fc.integer({ min: 1, max: 8 }),
          n: fc.integer({ min: 1, max: 24 }),
          ranks: fc.array(fc.option(fc.integer({ min: 0, max: 4 }), { freq: 4 }), {
            minLength: 1,
            maxLength: 3,
          }),
          rows: fc.integer({ min: 1, max: 6 }),
          ridge: fc.constantFrom(0, 1e-4, 1e-1, 10),
          preserve: fc.option(
            fc.record({ weight: fc.constantFrom(0, 0.3, 2), rows: fc.integer({ min: 1, max: 6 }) }),
          ),
        }),
        (options) => {
          const { grams, rows } = bothForms(options);
          const system = factoriseInput(rows.input);
          const preserved =
            options.preserve === null || options.preserve.weight === 0 ? 0 : options.preserve.rows;
          const count = options.rows * options.ranks.length + preserved;
          expect(system.side).toBe(count < options.n ? 'samples' : 'features');
          const other = factoriseInput(grams.input);
          expect(other.side).toBe('features');
          expect([system.lambda, system.beta]).toBeAllClose([other.lambda, other.beta], { rtol: 1e-12 });
          expect(relativeError(fuse(rows), fuse(grams))).toBeLessThan(1e-7);
        },
      ),
      { numRuns: 80, seed: 1 },
    );
  });

  it('with ridge 0 have the same rank and condition as their Gram matrices', () => {
    const { grams, rows } = bothForms({ ...fewRows, ridge: 0 });
    const [a, b] = [factoriseInput(grams.input), factoriseInput(rows.input)];
    expect([a.side, b.side]).toEqual(['features', 'samples']);
    expect(b.rank).toBe(8);
    expect(a.rank).toBe(8);
    expect([b.condition]).toBeAllClose([a.condition], { rtol: 1e-8 });
  });

  it('are solved on either side with a ridge that is lost in rounding: as with ridge 0', () => {
    const { grams, rows } = bothForms({ ...fewRows, ridge: 1e-17 });
    const none = fuse(bothForms({ ...fewRows, ridge: 0 }).rows);
    expect(factoriseInput(grams.input).rank).toBe(8);
    expect(relativeError(fuse(grams), none)).toBeLessThan(1e-10);
    expect(relativeError(fuse(rows), none)).toBeLessThan(1e-12);
  });

  it('with repeated rows and ridge 0 still give the minimum norm', () => {
    const { rows } = bothForms({ ...fewRows, ridge: 0 });
    const [first, second] = rows.input.grams as [{ features: ReturnType<typeof matrix> }, never];
    const twice = matrix(8, 20, Float64Array.from([...first.features.data, ...first.features.data]));
    const repeated = { ...rows, input: { ...rows.input, grams: [{ features: twice }, second] } };
    expect(factoriseInput(repeated.input)).toMatchObject({ side: 'samples', rank: 8 });
    const dense = { ...rows.input, grams: [gramOf(twice), second] };
    expect(relativeError(fuse(repeated), fuse({ ...rows, input: dense }))).toBeLessThan(1e-9);
  });

  it('stay on the side of the features when a term is known by its Gram matrix only', () => {
    const { grams, rows } = bothForms({ ...fewRows, preserve: { weight: 0.5, rows: 3 } });
    const mixed = { ...rows.input, preserve: grams.input.preserve };
    expect(factoriseInput(mixed).side).toBe('features');
    expect(factoriseInput(rows.input).side).toBe('samples');
    expect(fuse({ ...rows, input: mixed })).toBeAllClose(fuse(rows), { rtol: 1e-9 });
    const oneGram = { ...rows.input, grams: [rows.input.grams[0]!, grams.input.grams[1]!] };
    expect(factoriseInput(oneGram).side).toBe('features');
  });

  it('measure the same as their Gram matrices', () => {
    const { grams, rows } = bothForms({ ...fewRows, preserve: { weight: 0.5, rows: 3 } });
    const fused = solveLayer(factoriseInput(rows.input), rows);
    const a = measureRetention(grams, fused);
    const b = measureRetention(rows, fused);
    expect(b.concepts.map(({ residual }) => residual)).toBeAllClose(
      a.concepts.map(({ residual }) => residual),
      { rtol: 1e-9 },
    );
    expect([b.preservedChange!]).toBeAllClose([a.preservedChange!], { rtol: 1e-9 });
  });

  it('of another width, or not finite, are refused by name', () => {
    const { rows } = bothForms(fewRows);
    const wrong = { ...rows.input, grams: [{ features: matrix(2, 19) }, rows.input.grams[1]!] };
    expect(() => factoriseInput(wrong)).toThrow(ShapeError);
    expect(() => factoriseInput(wrong)).toThrow(/block\.to_q: Gram matrix of concept 1: expected \[20, 20\]/);
    const broken = matrix(4, 20, randomMatrix(1, 4, 20).data);
    broken.data[7] = Number.NaN;
    const nan = { ...rows.input, grams: [{ features: broken }, rows.input.grams[1]!] };
    expect(() => factoriseInput(nan)).toThrow(NumericalError);
  });
});

describe('with an engine', () => {
  const plainEngine = async (a: ReturnType<typeof matrix>, b: ReturnType<typeof matrix>) =>
    naiveProduct(a, b);

  it('large systems come out the same', async () => {
    const { layer } = randomProblem({ ...fewRows, n: 200, rows: 150 });
    const system = await factoriseInputWith(plainEngine, layer.input, 100);
    expect(relativeError(toDense(solveLayer(system, layer)).data, fuse(layer))).toBeLessThan(1e-11);
    expect([system.condition]).toBeAllClose([factoriseInput(layer.input).condition], { rtol: 1e-9 });
  });

  it('layers that are solved together come out as one by one, on both sides', async () => {
    // Wide enough for the engine to multiply Gram matrices.
    for (const problem of Object.values(bothForms({ ...fewRows, n: 270, rows: 60 }))) {
      const others = [
        { ...problem, layerName: 'block.to_k', deltas: [null, problem.deltas[0]!] },
        { ...problem, layerName: 'block.to_v', deltas: problem.deltas.map(() => null) },
      ];
      const system = await factoriseInputWith(plainEngine, problem.input, 100);
      const layers = [problem, ...others];
      const together = await solveLayers(system, layers);
      const alone = factoriseInput(problem.input);
      layers.forEach((each, l) => {
        const expected = toDense(solveLayer(alone, each)).data;
        expect(toDense(together[l]!).data).toBeAllClose(expected, { rtol: 1e-10, atol: 1e-300 });
      });
    }
  });

  it('a singular system has the directions that are there, and an engine’s own failure passes through', async () => {
    const { layer } = randomProblem({ ...fewRows, n: 200, rows: 3, ridge: 1e-300 });
    expect((await factoriseInputWith(plainEngine, layer.input, 100)).rank).toBe(6);
    const [first] = layer.input.grams as Matrix[];
    first!.data[150] = first!.data[150 * 200] = Number.NaN;
    await expect(factoriseInputWith(plainEngine, layer.input, 100)).rejects.toThrow(
      /^block\.to_q: .*finite numbers, got NaN.*look for damaged weights or features/,
    );
    const failing = async () => Promise.reject(new Error('out of memory'));
    const sound = randomProblem({ ...fewRows, n: 200, rows: 150 }).layer;
    await expect(factoriseInputWith(failing, sound.input, 100)).rejects.toThrow('out of memory');
  });
});
