/** TIES: trim small numbers, elect a sign, merge what agrees. On factors of equal rank, or on the changes themselves. */
import { type MergeRule, mergeDense, mergeFactors, type Task } from '../factors.ts';
import type { MergeContext, MergeMethod } from '../method.ts';
import { truncateMerged } from '../range-finder.ts';
import { electAndMerge, keepLargest } from './pruning.ts';

const rule = ({ density, majoritySign }: MergeContext): MergeRule =>
  function* (tasks) {
    const kept: Task[] = [];
    for (const task of tasks) kept.push(yield* keepLargest(task, density));
    return yield* electAndMerge(kept, majoritySign);
  };

const source = 'TIES-Merging, arXiv:2306.01708; PEFT 0.21, merge_utils.ties';

export const ties: MergeMethod = {
  title: 'TIES on factors',
  idea: 'Keeps the largest numbers of each factor, elects a sign for each place, averages those that have it.',
  source,
  parameters: ['density', 'majoritySign'],
  exact: false,
  merge: (terms, context) => context.pace.run(mergeFactors('ties', terms, rule(context))),
};

export const tiesSvd: MergeMethod = {
  title: 'TIES on changes',
  idea: 'The same on the changes themselves, for any ranks; the result is truncated.',
  source,
  parameters: ['density', 'majoritySign', 'rank', 'seed'],
  exact: false,
  merge: async (terms, context) =>
    truncateMerged(await context.pace.run(mergeDense(terms, rule(context))), terms, context),
};
