/** What shape? One rule per operator; the table is total, so a missing operator does not compile. */
import type { OpAttributes, OpType } from '../op-types.ts';
import type { ValueSpec } from '../value.ts';
import { attentionShapes } from './attention.ts';
import { convolutionShapes } from './convolution.ts';
import { elementwiseShapes } from './elementwise.ts';
import { matmulShapes } from './matmul.ts';
import { movementShapes } from './movement.ts';
import { normalizationShapes } from './normalization.ts';
import { reductionShapes } from './reduction.ts';
import type { ShapeRules } from './rule.ts';

const rules: ShapeRules<OpType> = {
  ...elementwiseShapes,
  ...matmulShapes,
  ...convolutionShapes,
  ...normalizationShapes,
  ...attentionShapes,
  ...movementShapes,
  ...reductionShapes,
};

type AnyRule = (inputs: readonly (ValueSpec | null)[], attributes: OpAttributes[OpType]) => ValueSpec[];

/** Output dtypes and shapes of an operator for these inputs. @throws {ShapeError} if they do not fit. */
export const shapeRules = rules as unknown as Readonly<Record<OpType, AnyRule>>;
