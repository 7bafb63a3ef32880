/** DARE: drop numbers at random and rescale the rest, then add, or elect signs as TIES does. */
import type { Steps } from '../../pace.ts';
import { addTasks, type MergeRule, mergeDense, mergeFactors, type Task } from '../factors.ts';
import type { MergeContext, MergeMethod } from '../method.ts';
import { truncateMerged } from '../range-finder.ts';
import { electAndMerge, keepRandom } from './pruning.ts';

type Rule = (context: MergeContext) => MergeRule;

function* dropped(tasks: readonly Task[], { density, keepMask }: MergeContext): Steps<Task[]> {
  const kept: Task[] = [];
  for (const task of tasks) kept.push(yield* keepRandom(task, density, keepMask));
  return kept;
}

const linearRule: Rule = (context) =>
  function* (tasks) {
    return yield* addTasks(yield* dropped(tasks, context));
  };
const tiesRule: Rule = (context) =>
  function* (tasks) {
    return yield* electAndMerge(yield* dropped(tasks, context), context.majoritySign);
  };

const source = 'DARE, arXiv:2311.03099; PEFT 0.21, merge_utils.dare_linear and dare_ties';

const onFactors =
  (name: string, rule: Rule): MergeMethod['merge'] =>
  (terms, context) =>
    context.pace.run(mergeFactors(name, terms, rule(context)));

const onChanges =
  (rule: Rule): MergeMethod['merge'] =>
  async (terms, context) =>
    truncateMerged(await context.pace.run(mergeDense(terms, rule(context))), terms, context);

export const dareLinear: MergeMethod = {
  title: 'DARE on factors, added',
  idea: 'Drops numbers of each factor at random, rescales the others, adds factors (with cross terms as linear).',
  source,
  parameters: ['density', 'seed'],
  exact: false,
  merge: onFactors('dare-linear', linearRule),
};

export const dareLinearSvd: MergeMethod = {
  title: 'DARE on changes, added',
  idea: 'Drops numbers of each change at random, rescales the others, adds, truncates.',
  source,
  parameters: ['density', 'seed', 'rank'],
  exact: false,
  merge: onChanges(linearRule),
};

export const dareTies: MergeMethod = {
  title: 'DARE on factors, signs elected',
  idea: 'As dare-linear, with the election of TIES in place of the sum.',
  source,
  parameters: ['density', 'seed', 'majoritySign'],
  exact: false,
  merge: onFactors('dare-ties', tiesRule),
};

export const dareTiesSvd: MergeMethod = {
  title: 'DARE on changes, signs elected',
  idea: 'As dare-linear-svd, with the election of TIES in place of the sum.',
  source,
  parameters: ['density', 'seed', 'majoritySign', 'rank'],
  exact: false,
  merge: onChanges(tiesRule),
};
