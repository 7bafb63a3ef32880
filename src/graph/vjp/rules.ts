/** What gradient? One rule per operator; the table is total, and operators without a gradient are listed as such. */
import { NoGradientError } from '../../errors.ts';
import type { GraphBuilder } from '../builder.ts';
import type { NodeOf } from '../graph.ts';
import type { OpType } from '../op-types.ts';
import type { Value } from '../value.ts';
import { attentionVjps } from './attention.ts';
import { convolutionVjps } from './convolution.ts';
import { elementwiseVjps } from './elementwise.ts';
import { matmulVjps } from './matmul.ts';
import { movementVjps } from './movement.ts';
import { normalizationVjps } from './normalization.ts';
import { reductionVjps } from './reduction.ts';
import type { NoVjp, Vjp, Vjps } from './rule.ts';

export const vjps: Vjps<OpType> = {
  ...elementwiseVjps,
  ...matmulVjps,
  ...convolutionVjps,
  ...normalizationVjps,
  ...attentionVjps,
  ...movementVjps,
  ...reductionVjps,
};

export type VjpTable = Readonly<Record<OpType, Vjp<OpType> | NoVjp>>;

/** Write the gradients of a node's inputs. @throws {NoGradientError} for an operator that has none */
export function inputGradients(
  g: GraphBuilder,
  node: NodeOf<OpType>,
  dys: readonly (Value | null)[],
  needs: readonly boolean[],
  rules: VjpTable,
): readonly (Value | null)[] {
  const rule = rules[node.op];
  if ('noGradient' in rule) {
    throw new NoGradientError(`${node.op} "${node.name}" has no gradient: ${rule.noGradient}`);
  }
  return rule(g, node, dys, needs);
}
