/** Small numbers zeroed, the rest added. */
import { addTasks, largestRank, mergeDense, mergeFactors, type Task } from '../factors.ts';
import type { MergeContext, MergeMethod } from '../method.ts';
import { truncateDense } from '../range-finder.ts';
import { keepLargest } from './pruning.ts';

const rule =
  ({ density }: MergeContext) =>
  (tasks: readonly Task[]): Float64Array =>
    addTasks(tasks.map((task) => keepLargest(task, density)));

const source = 'PEFT 0.21, merge_utils.magnitude_prune';

export const magnitudePrune: MergeMethod = {
  title: 'Magnitude pruning on factors',
  idea: 'Keeps the largest numbers of each factor and adds factors (with cross terms as linear).',
  source,
  parameters: ['density'],
  exact: false,
  merge: (terms, context) => mergeFactors('magnitude-prune', terms, rule(context)),
};

export const magnitudePruneSvd: MergeMethod = {
  title: 'Magnitude pruning on changes',
  idea: 'Keeps the largest numbers of each change, adds, truncates.',
  source,
  parameters: ['density', 'rank', 'seed'],
  exact: false,
  merge: async (terms, context) =>
    (await truncateDense(mergeDense(terms, rule(context)), context.rank ?? largestRank(terms), context))
      .delta,
};
