/** Factors added to factors: what many tools call a linear merge. */
import { addTasks, mergeFactors } from '../factors.ts';
import type { MergeMethod } from '../method.ts';

export const linear: MergeMethod = {
  title: 'Linear in the factors (approximation)',
  idea: 'Adds up- and down-factors separately. Not the sum of the changes: it has cross terms between the adapters.',
  source: 'PEFT 0.21, add_weighted_adapter(combination_type="linear"); for comparison, prefer cat',
  parameters: [],
  exact: false,
  merge: (terms, { pace }) => pace.run(mergeFactors('linear', terms, addTasks)),
};
