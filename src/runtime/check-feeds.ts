/** Whether what a run is given fits the graph: the same words whatever it runs on. */
import { ShapeError } from '../errors.ts';
import type { Graph } from '../graph/graph.ts';
import { describe, fits } from '../graph/value.ts';
import { sizeOf, type Tensor } from '../tensor/tensor.ts';
import type { Feeds, Targets } from './runtime.ts';

/** @throws {ShapeError} when an input is missing, unknown or of another dtype or shape */
export function checkFeeds({ inputs }: Graph, feeds: Feeds): void {
  for (const value of inputs) {
    const fed = feeds[value.name];
    if (fed === undefined)
      throw new ShapeError(`input "${value.name}": expected ${describe(value)}, got nothing`);
    if (fed.dtype !== value.dtype || !fits(fed.shape, value.shape)) {
      throw new ShapeError(`input "${value.name}": expected ${describe(value)}, got ${describe(fed)}`);
    }
  }
  const known = new Set(inputs.map((value) => value.name));
  for (const name of Object.keys(feeds)) {
    if (!known.has(name)) throw new ShapeError(`input "${name}": the graph has no such input`);
  }
}

/**
 * The tensors that outputs are written to, in their shapes.
 * @throws {ShapeError} when an array is not as long as the output it is for, a tensor not of its shape, or there is no such output
 */
export function checkTargets({ outputs }: Graph, into: Targets): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(into).map(([name, target]) => {
      const value = outputs.get(name);
      if (value === undefined) throw new ShapeError(`output "${name}": the graph has no such output`);
      if ('data' in target) {
        if (target.dtype === value.dtype && fits(target.shape, value.shape)) return [name, target];
        throw new ShapeError(`output "${name}": expected ${describe(value)}, got ${describe(target)}`);
      }
      const count = sizeOf(value.shape);
      if (target.length !== count) {
        throw new ShapeError(`output "${name}": expected an array of ${count}, got one of ${target.length}`);
      }
      return [name, { dtype: value.dtype, shape: value.shape, data: target } as Tensor];
    }),
  );
}
