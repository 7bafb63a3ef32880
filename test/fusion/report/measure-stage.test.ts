/** The quick measurements of a stage against the plain ones of retention.ts. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { measureLayers } from '../../../src/fusion/report/measure-stage.ts';
import { fusionLoss, measureRetention } from '../../../src/fusion/report/retention.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { average, weightedSum } from '../../../src/fusion/solvers/weighted-sum.ts';
import type { GramTerm } from '../../../src/linalg/gram.ts';
import { type LowRank, lowRank } from '../../../src/linalg/low-rank.ts';
import type { Matrix } from '../../../src/linalg/matrix.ts';
import { GraphMatmulEngine } from '../../../src/runtime/matmul-engine.ts';
import { gramOf } from '../../support/fusion-problems.ts';
import { randomMatrix } from '../../support/matrices.ts';

/** XᵀX, or X itself. */
const termOf = (rows: Matrix, asRows: boolean): GramTerm => (asRows ? { features: rows } : gramOf(rows));

/** Layers on one input, some of which some concepts do not train, and a change of each. */
function problems(seed: number, n: number, ranks: readonly number[]) {
  let drawn = seed + 100;
  const grams = ranks.map((_, i) => termOf(randomMatrix(seed + i, 3 * n, n), i % 2 === 1));
  const input = {
    inputName: 'input',
    inputSize: n,
    grams,
    preserve: { gram: gramOf(randomMatrix(seed + 50, 2 * n, n)), weight: 0.5 },
    ridge: 0.1,
  };
  const factors = (m: number, r: number): LowRank =>
    lowRank(randomMatrix(drawn++, m, r), randomMatrix(drawn++, r, n));
  const layers = [5, 7].map(
    (m, l): LayerProblem => ({
      layerName: `layer.${l}`,
      outputSize: m,
      deltas: ranks.map((r, i) => (r === 0 || (l === 1 && i === 0) ? null : factors(m, r))),
      input,
    }),
  );
  return { layers, fused: layers.map(({ outputSize }, l) => factors(outputSize, 3 + l)) };
}

describe('measureLayers', () => {
  it('gives the numbers of the plain measurements', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 1e6 }),
        fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 4 }),
        async (seed, ranks) => {
          const { layers, fused } = problems(seed, 9, ranks);
          const measured = await measureLayers(layers, fused, 50, null);
          for (const [l, layer] of layers.entries()) {
            const { loss, baselines, ...retention } = measured[l]!;
            const plain = measureRetention(layer, fused[l]!);
            const flat = (value: typeof plain): number[] => [
              ...value.concepts.flatMap(({ ownEffect, residual, retention: kept }) => [
                ownEffect,
                residual,
                kept ?? -1,
              ]),
              ...value.crosstalk.flat(),
              value.preservedChange!,
              value.changeNorm,
              value.relativeChange ?? -1,
            ];
            expect(retention.layerName).toBe(layer.layerName);
            expect(flat(retention)).toBeAllClose(flat(plain), { rtol: 1e-9, atol: 1e-9 });
            expect([loss]).toBeAllClose([fusionLoss(layer, fused[l]!, 50)], { rtol: 1e-9 });
            for (const [name, merge] of [
              ['average', average(layer, null)],
              ['sum', weightedSum(layer, null)],
            ] as const) {
              const residuals = measureRetention(layer, merge).concepts.map(({ residual }) => residual);
              expect([...baselines[name]]).toBeAllClose(residuals, { rtol: 1e-9, atol: 1e-9 });
            }
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  it('gives them through the engine as well', async () => {
    const { layers, fused } = problems(3, 260, [2, 4]);
    const engine = new GraphMatmulEngine({ threads: 1 });
    const quick = await measureLayers(layers, fused, 50, engine.multiply);
    const plain = await measureLayers(layers, fused, 50, null);
    await engine.dispose();
    expect(quick.map(({ loss }) => loss)).toBeAllClose(
      plain.map(({ loss }) => loss),
      { rtol: 1e-10 },
    );
  });
});
