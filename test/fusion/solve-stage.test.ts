/** Shared problems of a stage, one after the other: the next one is read while one is solved. */
import { describe, expect, it } from 'vitest';
import { inputProblems, type StageLayer, type StageProblem } from '../../src/fusion/solve-stage.ts';
import { type StageStatistics, statisticsOf } from '../../src/fusion/statistics/statistics.ts';
import { type GramTerm, packedLength, packedSymmetric } from '../../src/linalg/gram.ts';

const SIZE = 3;
const INPUTS = ['a', 'b', 'c', 'd'];

/** Statistics that are told when they are read, and by whom. */
function statistics(factor: number, log: string[], broken?: string): StageStatistics {
  const inputOf = new Map(INPUTS.map((input) => [input, input]));
  return {
    ...statisticsOf(inputOf, new Map(INPUTS.map((input, i) => [input, i + factor])), new Map()),
    termLater: async (input, memory): Promise<GramTerm> => {
      log.push(`read ${input}`);
      const packed = memory!.take(packedLength(SIZE));
      await Promise.resolve();
      if (input === broken) throw new Error(`${input} is broken`);
      return packedSymmetric(SIZE, packed.fill(factor * (1 + INPUTS.indexOf(input))));
    },
  };
}

const groups = INPUTS.map((layerName): StageLayer[] => [{ layerName, outputSize: 2, inputSize: SIZE }]);
const problemOf = (collected: StageStatistics[], prior: StageStatistics | null): StageProblem => ({
  stage: 'spatial',
  layers: groups.flat(),
  collected,
  prior,
  deltas: collected.map(() => new Map()),
});

describe('shared problems', () => {
  it('come one after the other, with the numbers of their own input while they are solved', async () => {
    const log: string[] = [];
    const problem = problemOf([statistics(1, log), statistics(10, log)], statistics(100, log));
    const seen: unknown[] = [];
    for await (const { layers, input, rows } of inputProblems(problem, groups, { ridge: 0.1, preserve: 2 })) {
      // The next one has been read meanwhile.
      await new Promise((resolve) => setTimeout(resolve, 1));
      const first = (term: GramTerm): number => ('packed' in term ? term.packed.at(-1)! : Number.NaN);
      expect(input.memory!.take(6).buffer).not.toBe(
        (input.grams[0] as { packed: Float64Array }).packed.buffer,
      );
      seen.push([layers[0]!.layerName, input.grams.map(first), first(input.preserve!.gram), rows]);
    }
    expect(seen).toEqual([
      ['a', [1, 10], 100, 11],
      ['b', [2, 20], 200, 13],
      ['c', [3, 30], 300, 15],
      ['d', [4, 40], 400, 17],
    ]);
  });

  it('are read one ahead', async () => {
    const log: string[] = [];
    for await (const { input } of inputProblems(problemOf([statistics(1, log)], null), groups, {
      ridge: 0,
      preserve: 0,
    })) {
      log.push(`solve ${input.inputName}`);
    }
    expect(log.join(', ')).toBe('read a, read b, solve a, read c, solve b, read d, solve c, solve d');
  });

  it('that cannot be read fail at their turn, and at none where the solve has ended before', async () => {
    const solved: string[] = [];
    const log: string[] = [];
    const weights = { ridge: 0, preserve: 0 };
    const problem = problemOf([statistics(1, log, 'c')], null);
    const run = async (until: string): Promise<void> => {
      for await (const { input } of inputProblems(problem, groups, weights)) {
        solved.push(input.inputName);
        if (input.inputName === until) return;
      }
    };
    await run('b');
    await expect(run('d')).rejects.toThrow('c is broken');
    expect(solved.join('')).toBe('abab');
  });
});
