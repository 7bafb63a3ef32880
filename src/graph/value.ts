/** Values: the typed edges of a graph. Every shape is concrete; a graph is written for the sizes it runs at. */
import type { TensorDType } from '../tensor/tensor.ts';

/** Element types of a graph: those of tensors, and the other half-width type that weights may be stored in. */
export type GraphDType = TensorDType | 'bfloat16';

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
