/** What `auto` chooses among its candidates, on features that were not solved on. */
import { describe, expect, it } from 'vitest';
import { DEFAULTS } from '../../../src/fusion/options.ts';
import type { ParameterChoice } from '../../../src/fusion/report/report.ts';
import {
  type ChoiceProblem,
  chooseParameters,
  heldOutOptions,
  PRESERVE_CANDIDATES,
  RIDGE_CANDIDATES,
} from '../../../src/fusion/solvers/parameter-choice.ts';
import { type StageStatistics, statisticsOf } from '../../../src/fusion/statistics/statistics.ts';
import { lowRank } from '../../../src/linalg/low-rank.ts';
import { gramOf } from '../../support/fusion-problems.ts';
import { randomMatrix } from '../../support/matrices.ts';

const LAYER = 'block.to_q';
const [M, N] = [9, 12];

/** Rows with little energy in their later features, as real ones have: there a small ridge learns noise. */
function features(seed: number, rows: number): StageStatistics {
  const x = randomMatrix(seed, rows, N);
  x.data.forEach((value, i) => {
    x.data[i] = value * 10 ** (-(i % N) / 8);
  });
  return statisticsOf(new Map([[LAYER, LAYER]]), new Map([[LAYER, rows]]), new Map([[LAYER, gramOf(x)]]));
}

function problem(change: Partial<ChoiceProblem> = {}, rows = 40): ChoiceProblem {
  const delta = (seed: number) =>
    new Map([[LAYER, lowRank(randomMatrix(seed, M, 2), randomMatrix(seed + 1, 2, N))]]);
  return {
    problem: {
      stage: 'spatial',
      layers: [{ layerName: LAYER, outputSize: M, inputSize: N }],
      collected: [features(1, rows), features(2, rows)],
      prior: features(3, rows),
      deltas: [delta(10), delta(20)],
    },
    heldOut: [features(4, 400), features(5, 400)],
    ridge: 'auto',
    preserve: 'auto',
    engine: null,
    ...change,
  };
}

/** The last candidate that keeps at most `cost` less than the best, and the best itself. */
function among({ candidates }: ParameterChoice, cost: number): { chosen: number; best: number } {
  const most = Math.max(...candidates.map(({ kept }) => kept));
  return {
    chosen: Math.max(...candidates.filter(({ kept }) => kept >= most - cost).map(({ value }) => value)),
    best: candidates.find(({ kept }) => kept === most)!.value,
  };
}

describe('auto', () => {
  it('takes the largest ridge of those that keep as much, to a fifth of a percent', async () => {
    // A lone concept on the very features that were solved on: the less ridge the better, and the first ones hardly matter.
    const { problem: whole } = problem();
    const { ridge } = await chooseParameters({
      ...problem({ preserve: 0 }),
      problem: { ...whole, collected: whole.collected.slice(1), deltas: whole.deltas.slice(1) },
      heldOut: whole.collected.slice(1),
    });
    expect(ridge!.candidates.map(({ value }) => value)).toEqual([...RIDGE_CANDIDATES]);
    const { chosen, best } = among(ridge!, 0.002);
    expect(best).toBe(RIDGE_CANDIDATES[0]);
    expect(chosen).toBeGreaterThan(best);
    expect(chosen).toBeLessThan(RIDGE_CANDIDATES.at(-1)!);
    expect(ridge!.chosen).toBe(chosen);
  });

  it('then takes the strongest preservation that costs a percent at most', async () => {
    const asked: [string, number][] = [];
    const { ridge, preserve } = await chooseParameters(
      problem({ onCandidate: (name, value) => void asked.push([name, value]) }),
    );
    const { chosen, best } = among(preserve!, 0.01);
    expect(chosen).toBeGreaterThan(best);
    expect(chosen).toBeLessThan(PRESERVE_CANDIDATES.at(-1)!);
    expect(preserve!.chosen).toBe(chosen);
    expect(ridge!.chosen).toBe(among(ridge!, 0.002).chosen);
    expect(asked).toEqual([
      ...RIDGE_CANDIDATES.map((value) => ['ridge', value]),
      ...PRESERVE_CANDIDATES.map((value) => ['preserve', value]),
    ]);
  });

  it('is judged with the ridge that was chosen, and left alone where a number is given', async () => {
    const given = await chooseParameters(problem({ ridge: 0.1 }));
    expect(given.ridge).toBeNull();
    const both = await chooseParameters(problem());
    const same = await chooseParameters(problem({ ridge: both.ridge!.chosen }));
    expect(both.preserve).toEqual(same.preserve);
    expect(await chooseParameters(problem({ ridge: 0.1, preserve: 0.2 }))).toEqual({
      ridge: null,
      preserve: null,
    });
    const { problem: whole } = problem();
    expect(await chooseParameters(problem({ problem: { ...whole, prior: null }, ridge: 0.1 }))).toEqual({
      ridge: null,
      preserve: null,
    });
  });

  it('looks at other pictures: another seed, fewer steps, other prompts, one run', () => {
    const options = { ...DEFAULTS, steps: 20, seed: 4, runs: 3 };
    expect(heldOutOptions(options)).toEqual({
      ...options,
      seed: 5,
      steps: 14,
      runs: 1,
      promptTemplates: ['a picture of a {}', 'a {} on a table'],
    });
    expect(heldOutOptions({ ...options, steps: 1 }).steps).toBe(1);
    for (const template of heldOutOptions(options).promptTemplates) {
      expect(DEFAULTS.promptTemplates).not.toContain(template);
    }
  });
});
