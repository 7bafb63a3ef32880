/** What a graph is encoded for: the kernels that one of onnxruntime's devices has beyond ONNX's own operators. */
import type { NodeOf } from '../../graph/graph.ts';
import type { OpType } from '../../graph/op-types.ts';
import type { Value } from '../../graph/value.ts';
import {
  type Emitter,
  firstOutput,
  type Lowering,
  type LoweringTable,
  names,
  STANDARD_RULES,
} from './lowering.ts';

/** One device of the runtime. */
export interface LoweringTarget {
  /** Operator sets of its graphs, by domain; ONNX's own is ''. */
  readonly opsets: Readonly<Record<string, number>>;
  /** Rules that take the place of the standard ones. */
  readonly rules: Partial<LoweringTable>;
}

const CONTRIB = 'com.microsoft';

/** Places of a map from which convolving takes two thirds of the time; with fewer, turning the weight takes as long. */
const TURNED_FROM = 512;

/**
 * The gradient through a convolution of stride 1, as a convolution: turned by 180° before and after, with input and output
 * channels of the weight swapped. The runtime's own transposed convolution writes every product out and adds them up in a
 * second pass; and maps are smaller than weights to turn.
 * @returns whether it was written
 */
function turnedConvolution(e: Emitter, node: NodeOf<'ConvTranspose'>): boolean {
  const { strides, pads } = node.attributes;
  const [x, weight] = node.inputs as [Value, Value];
  const [, , rows, cols] = x.shape as [number, number, number, number];
  const [, , kernelHeight, kernelWidth] = weight.shape as [number, number, number, number];
  const [top, left, bottom, right] = pads;
  const around = [
    kernelHeight - 1 - bottom,
    kernelWidth - 1 - right,
    kernelHeight - 1 - top,
    kernelWidth - 1 - left,
  ];
  if (x.dtype !== 'float32' || strides.some((stride) => stride !== 1)) return false;
  if (rows * cols < TURNED_FROM || around.some((pad) => pad < 0)) return false;
  const turned = (name: string, options = {}): string =>
    e.emit(
      'Slice',
      [name, e.ints([-1, -1]), e.ints([-(2 ** 31), -(2 ** 31)]), e.ints([2, 3]), e.ints([-1, -1])],
      options,
    );
  const swapped = e.emit('Transpose', [weight.name], { attributes: { perm: [1, 0, 2, 3] } });
  const convolved = e.emit('Conv', [turned(x.name), swapped], {
    attributes: { strides, pads: around, dilations: [1, 1] },
  });
  turned(convolved, { outputs: firstOutput(node) });
  return true;
}

/** ONNX's own operators alone: what any device runs. */
export const STANDARD_TARGET: LoweringTarget = { opsets: { '': 21 }, rules: {} };

/** The CPU: kernels of onnxruntime's own that do several steps in one pass over memory. */
export const CPU_TARGET: LoweringTarget = {
  opsets: { '': 21, [CONTRIB]: 1 },
  rules: {
    QuickGelu: (e, node) => {
      e.emit('QuickGelu', names(node.inputs), {
        attributes: { alpha: { float: node.attributes.alpha } },
        outputs: firstOutput(node),
        domain: CONTRIB,
      });
    },
    FusedMatMul: (e, node) => {
      const { transA, transB, alpha } = node.attributes;
      // The kernel exists for float32 only.
      if (node.outputs[0]!.dtype !== 'float32' || (!transA && !transB && alpha === 1)) {
        STANDARD_RULES.FusedMatMul(e, node);
        return;
      }
      e.emit('FusedMatMul', names(node.inputs), {
        attributes: { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: { float: alpha } },
        outputs: firstOutput(node),
        domain: CONTRIB,
      });
    },
    ConvTranspose: (e, node) => {
      if (!turnedConvolution(e, node)) STANDARD_RULES.ConvTranspose(e, node);
    },
    MultiHeadAttention: (e, node) => {
      const [q, k, v] = names(node.inputs) as [string, string, string];
      const inputs = node.inputs[3] ? [q, k, v, '', '', node.inputs[3].name] : [q, k, v];
      e.emit('MultiHeadAttention', inputs, {
        attributes: { num_heads: node.attributes.numHeads },
        outputs: firstOutput(node),
        domain: CONTRIB,
      });
    },
  },
};

/** Write the ONNX nodes of one node of a graph. */
export function lower(e: Emitter, node: NodeOf<OpType>, { rules }: LoweringTarget): void {
  ((rules[node.op] ?? STANDARD_RULES[node.op]) as Lowering<OpType>)(e, node);
}
