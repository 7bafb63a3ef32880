/**
 * The closed form against Mix-of-Show's gradient fusion and against dense float64 solutions, on every layer of the
 * fusion goldens: loss, probes, full weights, norms and ranks.
 */
import { describe, expect, it } from 'vitest';
import { fusionLoss, measureRetention } from '../../src/fusion/report/retention.ts';
import { factoriseInput, type NormalSystem, solveLayer } from '../../src/fusion/solvers/least-squares.ts';
import type { LayerProblem } from '../../src/fusion/solvers/problem.ts';
import {
  applyToVector,
  frobeniusNorm,
  type LowRank,
  lowRank,
  rankOf,
  scale,
  toDense,
} from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { svd } from '../../src/linalg/svd.ts';
import { relativeError } from '../support/close.ts';
import {
  asMatrix,
  type FusionRun,
  fusionRuns,
  type GoldenLayer,
  openFusionRun,
  referenceChange,
} from '../support/fusion-runs.ts';

/** Solutions are named `min` (ridge 0) and `ridge_<relative ridge>`. */
function ridgeOf(solution: string): number {
  return solution === 'min' ? 0 : Number(solution.slice('ridge_'.length));
}

interface Solved extends GoldenLayer {
  readonly layer: LayerProblem;
  /** By name of the solution. */
  readonly systems: ReadonlyMap<string, NormalSystem>;
  readonly fused: ReadonlyMap<string, LowRank>;
}

function solveRun({ layers, grams }: FusionRun): Solved[] {
  const systems = new Map<string, Map<string, NormalSystem>>();
  return layers.map((golden): Solved => {
    const { record, base, layerName, deltas } = golden;
    const group = record.input_group;
    let shared = systems.get(group);
    if (shared === undefined) {
      shared = new Map(
        ['min', ...Object.keys(record.loss_ridge)].map((solution) => {
          const input = {
            inputName: group,
            inputSize: base.cols,
            grams: grams.get(group)!,
            preserve: null,
            ridge: ridgeOf(solution),
          };
          return [solution, factoriseInput(input)];
        }),
      );
      systems.set(group, shared);
    }
    const layerFor = ({ input }: NormalSystem) => ({ layerName, outputSize: base.rows, deltas, input });
    return {
      ...golden,
      layer: layerFor(shared.get('min')!),
      systems: shared,
      fused: new Map(
        [...shared].map(([solution, system]) => [solution, solveLayer(system, layerFor(system))]),
      ),
    };
  });
}

const runs = fusionRuns();

it('there are runs to check', () => {
  expect(runs.length).toBeGreaterThan(0);
});

describe.each(runs)('%s', async (name) => {
  const run = await openFusionRun(name);
  const { open } = run;
  const solved = solveRun(run);
  /** Runs a check on every layer; a failure names its layer. */
  const eachLayer = (check: (layer: Solved) => void) => {
    for (const layer of solved) {
      try {
        check(layer);
      } catch (error) {
        throw new Error(`${layer.paramName}: ${(error as Error).message}`, { cause: error });
      }
    }
  };

  it('the exact solution is no worse than L-BFGS and is the stated optimum', () => {
    eachLayer(({ layer, fused, rows, record }) => {
      const loss = fusionLoss(layer, fused.get('min')!, rows);
      // The JSON holds ten digits.
      expect(loss).toBeLessThanOrEqual(record.loss_lbfgs * (1 + 1e-9));
      expect(Math.abs(loss - record.loss_min)).toBeLessThanOrEqual(
        1e-6 * record.loss_min + 1e-13 * record.loss_W0,
      );
    });
  });

  it('the loss at the base and at every ridge is the stated one', () => {
    eachLayer(({ layer, fused, rows, record }) => {
      const nothing = scale(fused.get('min')!, 0);
      expect([fusionLoss(layer, nothing, rows)]).toBeAllClose([record.loss_W0], { rtol: 1e-8 });
      for (const [solution, expected] of Object.entries(record.loss_ridge)) {
        const loss = fusionLoss(layer, fused.get(solution)!, rows);
        expect([loss], solution).toBeAllClose([expected], { rtol: 1e-6, atol: 1e-12 * record.loss_W0 });
      }
    });
  });

  it('ridge relative to the mean diagonal is the stated λ', () => {
    eachLayer(({ systems, record }) => {
      for (const [solution, lambda] of Object.entries(record.lambda_)) {
        expect([systems.get(solution)!.lambda]).toBeAllClose([lambda], { rtol: 1e-8 });
      }
    });
  });

  it('probes of the change agree', async () => {
    const probes = await open('probes.safetensors');
    let checked = 0;
    eachLayer(({ paramName, fused, base }) => {
      const probe = asMatrix(probes, `probe.${base.cols}`).data;
      for (const [solution, delta] of fused) {
        if (!probes.tensors.has(`${paramName}|${solution}`)) continue;
        const expected = asMatrix(probes, `${paramName}|${solution}`).data;
        const error = relativeError(applyToVector(delta, probe), expected);
        expect(error, solution).toBeLessThanOrEqual(solution === 'min' ? 1e-6 : 1e-8);
        checked++;
      }
    });
    const names = [...probes.tensors.keys()].filter((key) => key.includes('|'));
    expect(checked).toBe(names.length);
  });

  it('full weights agree: W₀ plus the merged delta', async () => {
    const selected = await open('selected_full.safetensors');
    let checked = 0;
    eachLayer(({ paramName, fused, base }) => {
      for (const [solution, delta] of fused) {
        if (!selected.tensors.has(`${paramName}|${solution}`)) continue;
        const change = asMatrix(selected, `${paramName}|${solution}`).data.map((w, i) => w - base.data[i]!);
        // The stated weight is rounded to float64 before W₀ is taken away again.
        expect(relativeError(toDense(delta).data, change)).toBeLessThanOrEqual(
          solution === 'min' ? 1e-6 : 1e-8,
        );
        checked++;
      }
    });
    const names = [...selected.tensors.keys()].filter((key) => /\|(min|ridge_[^|]*)$/.test(key));
    expect(checked).toBe(names.length);
  });

  it('the change has the stated norm, and at most the sum of the ranks', () => {
    eachLayer(({ fused, record }) => {
      for (const [solution, delta] of fused) {
        const stated = solution === 'min' ? record.delta_fro : record.delta_fro_ridge[solution]!;
        expect([frobeniusNorm(delta)], solution).toBeAllClose([stated], { rtol: 1e-6 });
        expect(rankOf(delta)).toBe(record.sum_of_ranks);
        const { singularValues } = svd(toDense(delta));
        for (const beyond of singularValues.subarray(record.sum_of_ranks)) {
          expect(beyond / singularValues[0]!).toBeLessThan(1e-12);
        }
      }
    });
  });

  it('float32 factors, as exported, hold the change within 1e-5', () => {
    eachLayer(({ fused }) => {
      for (const [solution, { up, down }] of fused) {
        const rounded = lowRank(
          matrix(up.rows, up.cols, Float64Array.from(Float32Array.from(up.data))),
          matrix(down.rows, down.cols, Float64Array.from(Float32Array.from(down.data))),
        );
        const exact = toDense({ up, down }).data;
        expect(relativeError(toDense(rounded).data, exact), solution).toBeLessThanOrEqual(1e-5);
      }
    });
  });

  it('the reference’s own result has its stated loss, and our misfit is no larger', async () => {
    const reference = await open('fused_lbfgs.safetensors');
    eachLayer((golden) => {
      const { layer, fused, base, rows, record } = golden;
      const theirs = referenceChange(reference, golden);
      // Norms of the misfit differ by no more than X times what the stored form leaves out: float32 rounding and,
      // where it is factors, everything beyond the sum of the ranks.
      const misfit = (loss: number) => Math.sqrt(loss * rows * base.rows);
      const cut = rankOf(theirs) < base.cols ? record.lbfgs_delta_beyond_sum_of_ranks_rel : 0;
      const bound = record.x_sv_max * cut * record.delta_fro_lbfgs + 1e-5 * misfit(record.loss_W0);
      const difference = misfit(fusionLoss(layer, theirs, rows)) - misfit(record.loss_lbfgs);
      expect(Math.abs(difference)).toBeLessThanOrEqual(bound);
      const residual = (delta: LowRank) =>
        measureRetention(layer, delta).concepts.reduce((total, concept) => total + concept.residual, 0);
      expect(residual(fused.get('min')!)).toBeLessThanOrEqual(residual(theirs) * (1 + 1e-9));
    });
  });
});
