/** Which ONNX nodes? One rule per operator, in ONNX's own operators; a target may have better ones for some (targets.ts). */

import type { NodeOf } from '../../graph/graph.ts';
import type { OpType } from '../../graph/op-types.ts';
import type { Value } from '../../graph/value.ts';
import { sizeOf } from '../../tensor/tensor.ts';
import { ELEMENT_TYPES, type OnnxAttribute } from './proto.ts';

/** What a rule writes with; names of intermediate values are made up by the emitter. */
export interface Emitter {
  /** Adds a node; returns its outputs' names (fresh ones unless given). */
  emit(
    opType: string,
    inputs: readonly string[],
    options?: {
      attributes?: Readonly<Record<string, OnnxAttribute>>;
      outputs?: readonly string[];
      domain?: string;
    },
  ): string;
  ints(values: readonly number[]): string;
  floats(values: readonly number[]): string;
}

export type Lowering<K extends OpType> = (e: Emitter, node: NodeOf<K>) => void;

/** A rule for every operator. */
export type LoweringTable = { readonly [K in OpType]: Lowering<K> };

export const names = (values: readonly (Value | null)[]): string[] =>
  values.map((value) => value?.name ?? '');
const inputName = (node: NodeOf<OpType>, index: number): string => node.inputs[index]?.name ?? '';
export const firstOutput = (node: NodeOf<OpType>): readonly string[] => [node.outputs[0]!.name];

/** The ONNX operator of the same name, inputs and outputs, without attributes. */
const same = (e: Emitter, node: NodeOf<OpType>): void => {
  e.emit(node.op, names(node.inputs), { outputs: names(node.outputs) });
};

/** A number of a value's own type. */
const scalar = (e: Emitter, value: number, dtype: Value['dtype']): string => {
  const single = e.floats([value]);
  return dtype === 'float32'
    ? single
    : e.emit('Cast', [single], { attributes: { to: ELEMENT_TYPES[dtype] } });
};

const reduction = (e: Emitter, node: NodeOf<'ReduceSum' | 'ReduceMean' | 'ReduceMax'>): void => {
  const { axes, keepDims } = node.attributes;
  e.emit(node.op, [inputName(node, 0), e.ints(axes)], {
    attributes: { keepdims: keepDims ? 1 : 0 },
    outputs: firstOutput(node),
  });
};

export const STANDARD_RULES: LoweringTable = {
  Add: same,
  Sub: same,
  Mul: same,
  Div: same,
  Sqrt: same,
  Exp: same,
  Sin: same,
  Cos: same,
  Sigmoid: same,
  Erf: same,
  Equal: same,
  StopGradient: (e, node) => {
    e.emit('Identity', names(node.inputs), { outputs: firstOutput(node) });
  },
  Gelu: same,
  QuickGelu: (e, node) => {
    const x = inputName(node, 0);
    const alpha = scalar(e, node.attributes.alpha, node.outputs[0]!.dtype);
    const gate = e.emit('Sigmoid', [e.emit('Mul', [x, alpha])]);
    e.emit('Mul', [x, gate], { outputs: firstOutput(node) });
  },
  Cast: (e, node) => {
    const to = ELEMENT_TYPES[node.attributes.to];
    e.emit('Cast', names(node.inputs), { attributes: { to }, outputs: firstOutput(node) });
  },
  FusedMatMul: (e, node) => {
    const { transA, transB, alpha } = node.attributes;
    const isPlain = alpha === 1 && node.inputs.every((value) => value!.shape.length === 2);
    if (isPlain && (transA || transB) && node.outputs[0]!.dtype === 'float64') {
      // Reads its operands as they are: a transposed one, written out, costs time and memory.
      const attributes = { transA: transA ? 1 : 0, transB: transB ? 1 : 0 };
      e.emit('Gemm', names(node.inputs), { attributes, outputs: firstOutput(node) });
      return;
    }
    const operand = (index: number, trans: boolean): string => {
      const value = node.inputs[index]!;
      if (!trans) return value.name;
      const rank = value.shape.length;
      const perm = Array.from({ length: rank }, (_, i) => i)
        .with(-1, rank - 2)
        .with(-2, rank - 1);
      return e.emit('Transpose', [value.name], { attributes: { perm } });
    };
    const inputs = [operand(0, transA), operand(1, transB)];
    if (alpha === 1) {
      e.emit('MatMul', inputs, { outputs: firstOutput(node) });
      return;
    }
    const scale = scalar(e, alpha, node.outputs[0]!.dtype);
    e.emit('Mul', [e.emit('MatMul', inputs), scale], { outputs: firstOutput(node) });
  },
  Conv: (e, node) => {
    const inputs = names(node.inputs[2] ? node.inputs : node.inputs.slice(0, 2));
    const { strides, pads, dilations } = node.attributes;
    e.emit('Conv', inputs, { attributes: { strides, pads, dilations }, outputs: firstOutput(node) });
  },
  ConvTranspose: (e, node) => {
    const { strides, pads, height, width } = node.attributes;
    const [, , rows, cols] = node.inputs[0]!.shape as [number, number, number, number];
    const [kernelHeight, kernelWidth] = node.inputs[1]!.shape.slice(2) as [number, number];
    // Rows that a stride leaves over at the bottom or right, which the convolution did not read.
    const surplus = [
      height - ((rows - 1) * strides[0] + kernelHeight - pads[0] - pads[2]),
      width - ((cols - 1) * strides[1] + kernelWidth - pads[1] - pads[3]),
    ];
    e.emit('ConvTranspose', names(node.inputs), {
      attributes: { strides, pads, output_padding: surplus },
      outputs: firstOutput(node),
    });
  },
  Resize: (e, node) => {
    const { height, width } = node.attributes;
    const [, , fromHeight, fromWidth] = node.inputs[0]!.shape as [number, number, number, number];
    if (height === 2 * fromHeight && width === 2 * fromWidth) {
      e.emit('Resize', [inputName(node, 0), '', e.floats([1, 1, 2, 2])], {
        attributes: {
          mode: 'nearest',
          coordinate_transformation_mode: 'asymmetric',
          nearest_mode: 'floor',
        },
        outputs: firstOutput(node),
      });
      return;
    }
    // Other ratios as two gathers: the runtime divides by a rounded scale and can pick the neighbour.
    const rows = Array.from({ length: height }, (_, i) => Math.floor((i * fromHeight) / height));
    const cols = Array.from({ length: width }, (_, i) => Math.floor((i * fromWidth) / width));
    const tall = e.emit('Gather', [inputName(node, 0), e.ints(rows)], { attributes: { axis: 2 } });
    e.emit('Gather', [tall, e.ints(cols)], { attributes: { axis: 3 }, outputs: firstOutput(node) });
  },
  LayerNormalization: (e, node) => {
    e.emit('LayerNormalization', names(node.inputs), {
      attributes: { axis: -1, epsilon: { float: node.attributes.epsilon } },
      outputs: names(node.outputs),
    });
  },
  GroupNormalization: (e, node) => {
    const { groups, epsilon } = node.attributes;
    const { shape } = node.inputs[0]!;
    const [batch, channels] = shape as [number, number];
    const perChannel = [channels, ...shape.slice(2).map(() => 1)];
    const grouped = e.emit('Reshape', [
      inputName(node, 0),
      e.ints([batch, groups, sizeOf(shape) / (batch * groups)]),
    ]);
    const normal = e.emit(
      'InstanceNormalization',
      [grouped, e.floats(Array(groups).fill(1)), e.floats(Array(groups).fill(0))],
      { attributes: { epsilon: { float: epsilon } } },
    );
    const back = e.emit('Reshape', [normal, e.ints(shape)]);
    const weight = e.emit('Reshape', [inputName(node, 1), e.ints(perChannel)]);
    const bias = e.emit('Reshape', [inputName(node, 2), e.ints(perChannel)]);
    e.emit('Add', [e.emit('Mul', [back, weight]), bias], { outputs: firstOutput(node) });
  },
  Softmax: (e, node) => {
    e.emit('Softmax', names(node.inputs), {
      attributes: { axis: node.attributes.axis },
      outputs: firstOutput(node),
    });
  },
  MultiHeadAttention: (e, node) => {
    const { numHeads } = node.attributes;
    const headDim = node.inputs[0]!.shape.at(-1)! / numHeads;
    const heads = (index: number, perm: readonly number[]): string => {
      const { name, shape } = node.inputs[index]!;
      const [batch, positions, width] = shape as [number, number, number];
      const split = e.emit('Reshape', [name, e.ints([batch, positions, numHeads, width / numHeads])]);
      return e.emit('Transpose', [split], { attributes: { perm } });
    };
    const products = e.emit('MatMul', [heads(0, [0, 2, 1, 3]), heads(1, [0, 2, 3, 1])]);
    const scale = scalar(e, 1 / Math.sqrt(headDim), node.outputs[0]!.dtype);
    const scaled = e.emit('Mul', [products, scale]);
    const bias = node.inputs[3];
    const scores = bias ? e.emit('Add', [scaled, bias.name]) : scaled;
    const shares = e.emit('Softmax', [scores], { attributes: { axis: -1 } });
    const mixed = e.emit('MatMul', [shares, heads(2, [0, 2, 1, 3])]);
    const rows = e.emit('Transpose', [mixed], { attributes: { perm: [0, 2, 1, 3] } });
    e.emit('Reshape', [rows, e.ints(node.outputs[0]!.shape)], { outputs: firstOutput(node) });
  },
  Reshape: (e, node) => {
    // allowzero: a 0 means an empty axis, not "copy this axis".
    const attributes = { allowzero: 1 };
    e.emit('Reshape', [inputName(node, 0), e.ints(node.attributes.shape)], {
      attributes,
      outputs: firstOutput(node),
    });
  },
  Transpose: (e, node) => {
    e.emit('Transpose', names(node.inputs), {
      attributes: { perm: node.attributes.perm },
      outputs: firstOutput(node),
    });
  },
  Concat: (e, node) => {
    e.emit('Concat', names(node.inputs), {
      attributes: { axis: node.attributes.axis },
      outputs: firstOutput(node),
    });
  },
  Split: (e, node) => {
    e.emit('Split', [inputName(node, 0), e.ints(node.attributes.sizes)], {
      attributes: { axis: node.attributes.axis },
      outputs: names(node.outputs),
    });
  },
  Slice: (e, node) => {
    const { axis, start, end } = node.attributes;
    e.emit('Slice', [inputName(node, 0), e.ints([start]), e.ints([end]), e.ints([axis])], {
      outputs: firstOutput(node),
    });
  },
  Gather: (e, node) => {
    e.emit('Gather', names(node.inputs), {
      attributes: { axis: node.attributes.axis },
      outputs: firstOutput(node),
    });
  },
  ScatterRows: (e, node) => {
    const [rows, indices] = names(node.inputs) as [string, string];
    const { shape, dtype } = node.outputs[0]!;
    const zeros = e.emit('Expand', [scalar(e, 0, dtype), e.ints(shape)]);
    const positions = e.emit('Unsqueeze', [indices, e.ints([-1])]);
    e.emit('ScatterND', [zeros, positions, rows], {
      attributes: { reduction: 'add' },
      outputs: firstOutput(node),
    });
  },
  Expand: (e, node) => {
    e.emit('Expand', [inputName(node, 0), e.ints(node.attributes.shape)], { outputs: firstOutput(node) });
  },
  ReduceSum: reduction,
  ReduceMean: reduction,
  ReduceMax: reduction,
};
