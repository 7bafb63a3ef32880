/**
 * What value? The slow evaluator: any graph in plain TypeScript, each operator by its definition. It judges the
 * runtime in tests and is never used for real work. Values are rounded to the graph's dtype after every node.
 */
import { ShapeError } from '../errors.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Graph, NodeOf } from './graph.ts';
import { evaluateAttention } from './interpret/attention.ts';
import { evaluateConvolution } from './interpret/convolution.ts';
import { evaluateElementwise } from './interpret/elementwise.ts';
import { type Dense, type Evaluator, type Evaluators, fromDense, toDense } from './interpret/evaluator.ts';
import { evaluateMatmul } from './interpret/matmul.ts';
import { evaluateMovement } from './interpret/movement.ts';
import { evaluateNormalization } from './interpret/normalization.ts';
import { evaluateReduction } from './interpret/reduction.ts';
import type { OpType } from './op-types.ts';

const evaluators: Evaluators<OpType> = {
  ...evaluateElementwise,
  ...evaluateMatmul,
  ...evaluateConvolution,
  ...evaluateNormalization,
  ...evaluateAttention,
  ...evaluateMovement,
  ...evaluateReduction,
};

/** All outputs of `graph` for these inputs. @throws {ShapeError} when an input is missing. */
export function interpret(graph: Graph, feeds: Readonly<Record<string, Tensor>>): Record<string, Tensor> {
  const values = new Map<string, Dense>();
  for (const { name } of graph.inputs) {
    const fed = feeds[name];
    if (fed === undefined) throw new ShapeError(`input "${name}": got nothing`);
    values.set(name, toDense(fed));
  }
  for (const { value, tensor } of graph.constants) values.set(value.name, toDense(tensor));
  for (const { value, raw } of graph.weights) {
    values.set(value.name, { shape: value.shape, data: Float64Array.from(readFloat32(raw)) });
  }
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((input) => (input === null ? null : values.get(input.name)!));
    const results = (evaluators[node.op] as Evaluator<OpType>)(inputs, node as NodeOf<OpType>);
    node.outputs.forEach((output, i) => {
      values.set(output.name, toDense(fromDense(results[i]!, output)));
    });
  }
  return Object.fromEntries(
    [...graph.outputs].map(([name, value]) => [name, fromDense(values.get(value.name)!, value)]),
  );
}
