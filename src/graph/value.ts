/**
 * Values: the typed edges of a graph. Shapes are concrete: a graph is written for the sizes it runs at. Only matrix products
 * may have free axes, since thousands of them of all sizes make one factorisation.
 */
import type { TensorDType } from '../tensor/tensor.ts';

/** Element types of a graph: those of tensors, and the other half-width type that weights may be stored in. */
export type GraphDType = TensorDType | 'bfloat16';

/** The length of an axis that is as long as what is fed. */
export const FREE_AXIS = -1;

/** What is known of a value before it has a name. */
export interface ValueSpec {
  readonly dtype: GraphDType;
  readonly shape: readonly number[];
}

export interface Value extends ValueSpec {
  /** Unique within its graph. */
  readonly name: string;
}

/** `float32[1, 77, 768]` */
export function describe(spec: ValueSpec): string {
  return `${spec.dtype}[${spec.shape.join(', ')}]`;
}

/** Whether lengths of axes are those of a shape, whose free axes take any. */
export function fits(lengths: readonly number[], shape: readonly number[]): boolean {
  return (
    lengths.length === shape.length && shape.every((axis, i) => axis === FREE_AXIS || axis === lengths[i])
  );
}
