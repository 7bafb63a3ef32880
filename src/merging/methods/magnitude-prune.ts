/** Small numbers zeroed, the rest added. */
import { addTasks, type MergeRule, mergeDense, mergeFactors, type Task } from '../factors.ts';
import type { MergeContext, MergeMethod } from '../method.ts';
import { truncateMerged } from '../range-finder.ts';
import { keepLargest } from './pruning.ts';

const rule = ({ density }: MergeContext): MergeRule =>
  function* (tasks) {
    const kept: Task[] = [];
    for (const task of tasks) kept.push(yield* keepLargest(task, density));
    return yield* addTasks(kept);
  };

const source = 'PEFT 0.21, merge_utils.magnitude_prune';

export const magnitudePrune: MergeMethod = {
  title: 'Magnitude pruning on factors',
  idea: 'Keeps the largest numbers of each factor and adds factors (with cross terms as linear).',
  source,
  parameters: ['density'],
  exact: false,
  merge: (terms, context) => context.pace.run(mergeFactors('magnitude-prune', terms, rule(context))),
};

export const magnitudePruneSvd: MergeMethod = {
  title: 'Magnitude pruning on changes',
  idea: 'Keeps the largest numbers of each change, adds, truncates.',
  source,
  parameters: ['density', 'rank', 'seed'],
  exact: false,
  merge: async (terms, context) =>
    truncateMerged(await context.pace.run(mergeDense(terms, rule(context))), terms, context),
};
