/** The exact sum, factors laid side by side. */
import { weightedSum } from '../factors.ts';
import type { MergeMethod } from '../method.ts';

export const cat: MergeMethod = {
  title: 'Concatenation',
  idea: 'Factors side by side: the exact weighted sum, of rank Σ r (never more than the layer has).',
  source: 'Block products; the same as applying all adapters at run time',
  parameters: [],
  exact: true,
  merge: (terms, { pace }) => pace.run(weightedSum(terms)),
};
