/** How much memory the values of a run take where none is freed before its end, as a way back wants most of them. */
import { sizeOf } from '../tensor/tensor.ts';
import type { Graph } from './graph.ts';
import type { Value } from './value.ts';

/** Bytes of what one run computes from its inputs: not of what weights and constants alone make, nor of other shapes of a value. */
export function valueBytes({ nodes, inputs }: Graph): number {
  const varying = new Set<Value | null>(inputs);
  let bytes = 0;
  for (const { op, inputs: read, outputs } of nodes) {
    if (!read.some((value) => varying.has(value))) continue;
    for (const value of outputs) {
      varying.add(value);
      if (op !== 'Reshape') bytes += sizeOf(value.shape) * (value.dtype === 'float64' ? 8 : 4);
    }
  }
  return bytes;
}
