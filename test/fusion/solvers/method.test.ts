import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/errors.ts';
import { fusionLoss } from '../../../src/fusion/report/retention.ts';
import { leastSquares } from '../../../src/fusion/solvers/least-squares.ts';
import {
  FUSION_METHODS,
  fusionMethod,
  METHOD_DEFAULTS,
  type MethodContext,
  prepareMethod,
} from '../../../src/fusion/solvers/method.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { frobeniusNorm, rankOf, scale, toDense } from '../../../src/linalg/low-rank.ts';
import { randomProblem } from '../../support/fusion-problems.ts';

/** Concepts given by token rows and captions to preserve: what every method can take. */
const { layer, concepts, preservedFeatures } = randomProblem({
  seed: 8,
  m: 6,
  n: 9,
  ranks: [2, 3],
  rows: 3,
  ridge: 1e-2,
  preserve: { weight: 0.3, rows: 30 },
});
const input = {
  ...layer.input,
  grams: concepts.map(({ features }) => ({ features })),
  preserve: { gram: { features: preservedFeatures! }, weight: 0.3 },
};
const rows: LayerProblem = { ...layer, input };
const context: MethodContext = { stage: 'cross', rows: 6, options: METHOD_DEFAULTS, engine: null };

describe.each(FUSION_METHODS)('$name', (method) => {
  const solve = async (problem: LayerProblem, given = context) => {
    const prepared = await prepareMethod(method, problem.input, given);
    const [solution] = await prepared.solve([problem]);
    return solution!;
  };

  it('is found by its name and says what it is', () => {
    expect(fusionMethod(method.name)).toBe(method);
    for (const text of [method.title, method.idea, method.source]) expect(text.length).toBeGreaterThan(5);
  });

  it('returns the change as a LoRA of at most the sum of the ranks', async () => {
    const { delta } = await solve(rows);
    expect([delta.up.rows, delta.down.cols]).toEqual([6, 9]);
    expect(rankOf(delta)).toBeLessThanOrEqual(5);
    expect(frobeniusNorm(delta)).toBeGreaterThan(0);
  });

  it('at strength 0 changes nothing', async () => {
    const { delta } = await solve({ ...rows, deltas: rows.deltas.map((own) => scale(own!, 0)) });
    expect(frobeniusNorm(delta)).toBe(0);
  });

  it('treats concepts alike, whatever their order', async () => {
    const reversed = {
      ...rows,
      deltas: rows.deltas.toReversed(),
      input: { ...input, grams: input.grams.toReversed() },
    };
    const { delta } = await solve(rows);
    const other = await solve(reversed);
    // L-BFGS stops where rounding lets it.
    expect(toDense(other.delta).data).toBeAllClose(toDense(delta).data, { rtol: 1e-5 });
  });

  it('returns a lone concept’s answers to its own features, as far as its regularisation lets it', async () => {
    const alone: LayerProblem = {
      ...rows,
      deltas: [rows.deltas[0]!],
      input: { ...input, grams: [input.grams[0]!], preserve: null, ridge: 1e-9 },
    };
    const problem =
      method.name === 'custom-diffusion'
        ? { ...alone, input: { ...alone.input, preserve: input.preserve } }
        : alone;
    const { delta } = await solve(problem);
    const before = fusionLoss(problem, scale(delta, 0), 3);
    expect(fusionLoss(problem, delta, 3)).toBeLessThan(1e-6 * before);
  });
});

describe('the registry', () => {
  it('refuses unknown names, with the nearest known one', () => {
    expect(() => fusionMethod('norml')).toThrow(UsageError);
    expect(() => fusionMethod('norml')).toThrow('unknown fusion method "norml"; did you mean "normal"?');
    expect(() => fusionMethod('custom_diffusion')).toThrow(/"custom-diffusion"/);
    expect(() => fusionMethod('grand-unified')).toThrow(/expected one of normal, lbfgs, custom-diffusion/);
  });

  it('refuses a stage that a method is not defined for', async () => {
    const method = fusionMethod('custom-diffusion');
    await expect(prepareMethod(method, input, { ...context, stage: 'spatial' })).rejects.toThrow(
      /block\.to_q: .*defined for the stage cross, got spatial/,
    );
  });

  it('runs L-BFGS for the published number of iterations unless told otherwise', async () => {
    const method = fusionMethod('lbfgs');
    const losses = async (given: Partial<MethodContext>) => {
      const prepared = await method.prepare(input, { ...context, ...given });
      return (await prepared.solve([rows]))[0]!.losses;
    };
    const told = (iterations: number) => losses({ options: { ...METHOD_DEFAULTS, iterations } });
    expect(await losses({ stage: 'spatial' })).toEqual(await told(50));
    expect(await losses({ stage: 'cross' })).toEqual(await told(500));
    expect(await losses({ stage: 'text' })).toEqual(await told(500));
    expect((await told(10))!.length).toBeLessThan((await told(50))!.length);
  });

  it('normal is the closed form, also with an engine', async () => {
    const method = fusionMethod('normal');
    const expected = toDense(leastSquares(rows)).data;
    for (const engine of [null, async () => Promise.reject(new Error('too small to need one'))]) {
      const [solution] = await (await method.prepare(input, { ...context, engine })).solve([rows]);
      expect(toDense(solution!.delta).data).toEqual(expected);
    }
  });
});
