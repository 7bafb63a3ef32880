/**
 * GraphBuilder: writes a graph call by call. Each call checks its inputs and infers its output shapes at once,
 * so a mistake is reported where it was made, under the path of the layer that made it.
 */
import { EdloraError, ShapeError, UnsupportedOpError } from '../errors.ts';
import type { DType } from '../formats/dtype.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { sizeOf, type Tensor, type TensorDType } from '../tensor/tensor.ts';
import type { Graph, GraphNode, GraphWeight } from './graph.ts';
import type { NodeWriter } from './node-writer.ts';
import type { OpAttributes, OpType } from './op-types.ts';
import { shapeRules } from './ops/shape-rules.ts';
import { describe, type GraphDType, type Value, type ValueSpec } from './value.ts';

const WEIGHT_DTYPES: Partial<Record<DType, GraphDType>> = {
  F32: 'float32',
  F64: 'float64',
  F16: 'float16',
  BF16: 'bfloat16',
};

export class GraphBuilder implements NodeWriter {
  readonly #nodes: GraphNode[] = [];
  readonly #inputs: Value[] = [];
  readonly #outputs = new Map<string, Value>();
  readonly #constants: { value: Value; tensor: Tensor }[] = [];
  readonly #weights: GraphWeight[] = [];
  readonly #weightCache = new Map<RawTensor, Map<string, Value>>();
  readonly #scalars = new Map<string, Value>();
  readonly #names = new Set<string>();
  #path: string[] = [];
  #counter = 0;

  /** Go on writing a finished graph, which itself stays as it is. */
  static continuing(graph: Graph): GraphBuilder {
    const g = new GraphBuilder();
    g.#inputs.push(...graph.inputs);
    g.#constants.push(...graph.constants);
    g.#weights.push(...graph.weights);
    g.#nodes.push(...graph.nodes);
    for (const [name, value] of graph.outputs) g.#outputs.set(name, value);
    const values = [
      ...graph.inputs,
      ...graph.constants.map(({ value }) => value),
      ...graph.weights.map(({ value }) => value),
      ...graph.nodes.flatMap(({ outputs }) => outputs),
    ];
    for (const { name } of values) g.#names.add(name);
    // Every numbered name of the finished graph has a smaller number.
    g.#counter = values.length + graph.nodes.length;
    return g;
  }

  /** The nodes written so far, in order. */
  get nodes(): readonly GraphNode[] {
    return this.#nodes;
  }

  /** Everything that `write` adds is named under `name`. Scopes nest as the checkpoint's names do. */
  scope<T>(name: string, write: () => T): T {
    this.#path.push(name);
    try {
      return write();
    } finally {
      this.#path.pop();
    }
  }

  /** A value fed at run time. @throws {ShapeError} if the name is taken. */
  input(name: string, dtype: TensorDType, shape: readonly number[]): Value {
    const value = this.#value(name, { dtype, shape });
    this.#inputs.push(value);
    return value;
  }

  /** Numbers that belong to the graph itself. Large arrays belong into weights instead. */
  constant(tensor: Tensor): Value {
    const value = this.#value(this.#fresh('constant'), { dtype: tensor.dtype, shape: tensor.shape });
    this.#constants.push({ value, tensor });
    return value;
  }

  /** One number as a [1] tensor, shared between all uses. */
  scalar(number: number, dtype: 'float32' | 'float64' = 'float32'): Value {
    const key = `${dtype}:${number}`;
    let value = this.#scalars.get(key);
    if (value === undefined) {
      const data = dtype === 'float32' ? Float32Array.of(number) : Float64Array.of(number);
      value = this.constant({ dtype, shape: [1], data });
      this.#scalars.set(key, value);
    }
    return value;
  }

  /**
   * A weight of a model file as a float32 value; half-width weights are cast inside the graph.
   * @param shape declared shape, when it differs from the stored one by axes of size one (a 1×1 convolution
   *              used as a matrix); same number of elements
   * @throws {ShapeError} if the element counts differ; {UnsupportedOpError} for integer and 8-bit weights
   */
  weight(raw: RawTensor, shape: readonly number[] = raw.shape): Value {
    const cached = this.#weightCache.get(raw)?.get(shape.join());
    if (cached !== undefined) return cached;
    const dtype = WEIGHT_DTYPES[raw.dtype];
    if (dtype === undefined) {
      throw new UnsupportedOpError(
        `${raw.name}: expected a weight of dtype F32, F64, F16 or BF16, got ${raw.dtype}`,
      );
    }
    if (sizeOf(shape) !== sizeOf(raw.shape)) {
      throw new ShapeError(`${raw.name}: expected [${shape.join(', ')}], got [${raw.shape.join(', ')}]`);
    }
    const stored = this.#value(this.#fresh(raw.name), { dtype, shape });
    this.#weights.push({ value: stored, raw });
    const value = dtype === 'float32' ? stored : this.node('Cast', [stored], { to: 'float32' })[0]!;
    const perShape = this.#weightCache.get(raw) ?? new Map<string, Value>();
    perShape.set(shape.join(), value);
    this.#weightCache.set(raw, perShape);
    return value;
  }

  /**
   * Add one node. The typed functions of `ops/` are the usual way to call this.
   * @throws {ShapeError} with the path of the call, when the inputs do not fit the operator
   */
  node<K extends OpType>(
    op: K,
    inputs: readonly (Value | null)[],
    attributes: OpAttributes[K],
  ): readonly Value[] {
    const name = this.#fresh(op);
    let specs: readonly ValueSpec[];
    try {
      specs = shapeRules[op](inputs, attributes);
    } catch (error) {
      if (!(error instanceof EdloraError)) throw error;
      const given = inputs.map((input) => (input === null ? 'none' : describe(input))).join(', ');
      throw new ShapeError(`${op} "${name}": ${error.message} (inputs: ${given})`, { cause: error });
    }
    const outputs = specs.map((spec, i) => this.#value(i === 0 ? name : `${name}.${i}`, spec));
    this.#nodes.push({ op, name, inputs, outputs, attributes } as GraphNode);
    return outputs;
  }

  /** Return `value` from every run under `name`. @throws {ShapeError} if the name is taken. */
  output(name: string, value: Value): void {
    if (this.#outputs.has(name)) throw new ShapeError(`graph output "${name}": the name is taken`);
    this.#outputs.set(name, value);
  }

  /** Is there an output of this name already? */
  hasOutput(name: string): boolean {
    return this.#outputs.has(name);
  }

  finish(): Graph {
    return {
      inputs: this.#inputs,
      outputs: this.#outputs,
      nodes: this.#nodes,
      constants: this.#constants,
      weights: this.#weights,
    };
  }

  #fresh(label: string): string {
    return [...this.#path, `${label}_${this.#counter++}`].join('/');
  }

  #value(name: string, spec: ValueSpec): Value {
    if (this.#names.has(name)) throw new ShapeError(`graph value "${name}": the name is taken`);
    this.#names.add(name);
    return { name, dtype: spec.dtype, shape: [...spec.shape] };
  }
}
