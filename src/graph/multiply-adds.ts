/** How much arithmetic a graph is: what its time on a device is nearly proportional to. */
import type { Graph, GraphNode } from './graph.ts';
import type { Value } from './value.ts';

const count = ({ shape }: Value): number => shape.reduce((product, size) => product * size, 1);

/**
 * Multiplications with an addition of one run, those in float64 counted twice. Products, convolutions and attentions are
 * all that counts; what works element by element costs little beside them.
 */
export function multiplyAdds({ nodes }: Graph): number {
  return nodes.reduce((sum, node) => sum + ofNode(node) * (node.outputs[0]!.dtype === 'float64' ? 2 : 1), 0);
}

function ofNode({ op, inputs, outputs, attributes }: GraphNode): number {
  const [first, second, third] = inputs as readonly Value[];
  switch (op) {
    case 'FusedMatMul':
      return count(outputs[0]!) * first!.shape.at(attributes.transA ? -2 : -1)!;
    case 'Conv':
      return (count(outputs[0]!) * count(second!)) / second!.shape[0]!;
    case 'ConvTranspose':
      return (count(first!) * count(second!)) / second!.shape[0]!;
    case 'MultiHeadAttention': {
      const [batch, queries, width] = first!.shape as [number, number, number];
      return batch * queries * second!.shape[1]! * (width + third!.shape[2]!);
    }
    default:
      return 0;
  }
}
