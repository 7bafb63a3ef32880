/**
 * The form of a gradient rule (vector–Jacobian product), and what rules share: numbers of the right dtype, and
 * the undoing of broadcasting.
 */
import { NoGradientError } from '../../errors.ts';
import type { GraphBuilder } from '../builder.ts';
import type { NodeOf } from '../graph.ts';
import type { OpType } from '../op-types.ts';
import { mul } from '../ops/elementwise.ts';
import { expand, reshape } from '../ops/movement.ts';
import { reduceSum } from '../ops/reduction.ts';
import type { GraphDType, Value } from '../value.ts';

/**
 * Writes the gradients of a node's inputs.
 * @param dys   gradient of each output; null where nothing depends on it, never null for all
 * @param needs which inputs' gradients are wanted; others may be left null
 * @returns per input its gradient, of the input's shape; null where it is not wanted or zero
 */
export type Vjp<K extends OpType> = (
  g: GraphBuilder,
  node: NodeOf<K>,
  dys: readonly (Value | null)[],
  needs: readonly boolean[],
) => readonly (Value | null)[];

/** An operator that cannot be differentiated, and why. */
export interface NoVjp {
  readonly noGradient: string;
}

export type Vjps<K extends OpType> = { readonly [P in K]: Vjp<P> | NoVjp };

/** The single output's gradient. */
export const only = (dys: readonly (Value | null)[]): Value => dys[0]!;

/** Output `index` of a node that has no rule for it: an error once a gradient flows there. */
export function refuseOutput(node: NodeOf<OpType>, dys: readonly (Value | null)[], index: number): void {
  if (dys[index]) {
    throw new NoGradientError(`${node.op} "${node.name}": output ${index} has no gradient rule`);
  }
}

/** A [1] constant of the dtype of `like`. @throws {NoGradientError} if that is not a float type */
export function number(g: GraphBuilder, like: { readonly dtype: GraphDType }, value: number): Value {
  if (like.dtype !== 'float32' && like.dtype !== 'float64') {
    throw new NoGradientError(`gradients are float32 or float64, not ${like.dtype}`);
  }
  return g.scalar(value, like.dtype);
}

export const scaled = (g: GraphBuilder, x: Value, factor: number): Value => mul(g, x, number(g, x, factor));

/** Zeros of the shape and dtype of `like`. */
export const zerosLike = (g: GraphBuilder, like: Value, shape: readonly number[] = like.shape): Value =>
  expand(g, number(g, like, 0), shape);

/** The gradient of a value that was broadcast to d's shape: d summed over the axes that were stretched. */
export function sumTo(g: GraphBuilder, d: Value, shape: readonly number[]): Value {
  if (d.shape.join() === shape.join()) return d;
  const lead = d.shape.length - shape.length;
  const axes = d.shape.flatMap((dim, i) => (i < lead || (shape[i - lead] === 1 && dim !== 1) ? [i] : []));
  return reshape(g, axes.length === 0 ? d : reduceSum(g, d, axes), shape);
}
