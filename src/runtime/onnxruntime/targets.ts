/** What a graph is encoded for: the kernels that one of onnxruntime's devices has beyond ONNX's own operators. */
import type { NodeOf } from '../../graph/graph.ts';
import type { OpType } from '../../graph/op-types.ts';
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
