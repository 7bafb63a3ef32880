/** A deprojector as a graph: for training, with its parameters as inputs, and for use, all positions one after the other. */
import { gradients } from '../graph/autodiff.ts';
import { writeGradients } from '../graph/gradient-outputs.ts';
import type { Graph } from '../graph/graph.ts';
import { add, mul, sub } from '../graph/ops/elementwise.ts';
import { concat, reshape, slice } from '../graph/ops/movement.ts';
import { reduceMean } from '../graph/ops/reduction.ts';
import { pruned } from '../graph/prune.ts';
import type { Value } from '../graph/value.ts';
import { layerNorm } from '../models/layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../models/network.ts';
import { float32 } from '../tensor/tensor.ts';
import type { DeprojectorModel, DeprojectorShape } from './models/model.ts';

/** What is written of a deprojector. */
export interface DeprojectorPlan {
  readonly model: DeprojectorModel;
  readonly shape: DeprojectorShape;
  /** Positions T that are made: all but the first. */
  readonly positions: number;
}

export interface DeprojectorStep {
  /**
   * Inputs: `embedding` [B, D], relative to the empty prompt's; `before` [B, T − 1, D], the states 1 … T − 1, and `states`
   * [B, T, D], the true ones; `origin` [D]; and every parameter. Outputs: `predicted` [B, T, D], `errors` [T] (mean squares), `loss`
   * [1], their mean; with `withGradients`, `gradientOutput` of every parameter.
   */
  readonly graph: Graph;
  /** Shapes by name. */
  readonly parameters: ReadonlyMap<string, readonly number[]>;
}

/** Write what a training step runs. */
export function buildStep(
  { model, shape, positions }: DeprojectorPlan,
  batch: number,
  withGradients: boolean,
): DeprojectorStep {
  const net = new ParameterInputs();
  const { g } = net;
  const { hiddenSize: width } = shape;
  const embedding = g.input('embedding', 'float32', [batch, width]);
  const origin = g.input('origin', 'float32', [width]);
  const before = sub(g, g.input('before', 'float32', [batch, positions - 1, width]), origin);
  const states = g.input('states', 'float32', [batch, positions, width]);
  const made = model.all(net, shape, reshape(g, embedding, [batch, 1, width]), before);
  const predicted = layerNorm(net, made, FINAL_NORM, shape.layerNormEpsilon);
  const difference = sub(g, predicted, states);
  const errors = reduceMean(g, mul(g, difference, difference), [0, 2], false);
  const loss = reduceMean(g, errors, [0]);
  g.output('predicted', predicted);
  g.output('errors', errors);
  g.output('loss', loss);
  if (withGradients) {
    const one = g.constant(float32([1], [1]));
    writeGradients(g, gradients(g, new Map([[loss, one]]), [...net.parameters.values()]));
  }
  const parameters = new Map([...net.parameters].map(([name, { shape: own }]) => [name, own]));
  return { graph: pruned(net.finish().graph), parameters };
}

/**
 * Write what makes states: every position from those before it. Inputs: `embedding` [B, D] and `origin` [D], as above. Output:
 * `states` [B, T, D].
 * @param weights parameters by name
 */
export function buildApplication(plan: DeprojectorPlan, weights: WeightSource, batch: number): Network {
  const net = new NetworkBuilder(weights);
  net.g.output('states', concat(net.g, positionByPosition(net, plan, batch, plan.positions), 1));
  return net.finish();
}

/**
 * Write what a training step is to read where it learns from its own states: position after position, each from those before it,
 * which are its own or given. Inputs: `embedding`, `origin` and every parameter, as of a step; `own` [B, T − 1, 1], 1 where its own
 * state is read and else 0; `given` [B, T − 1, D], 0 where that is 1. Output: `before` [B, T − 1, D].
 */
export function buildOwnStates(plan: DeprojectorPlan, batch: number): Graph {
  const net = new ParameterInputs();
  const { g } = net;
  const rows = plan.positions - 1;
  const own = g.input('own', 'float32', [batch, rows, 1]);
  const given = g.input('given', 'float32', [batch, rows, plan.shape.hiddenSize]);
  const states = positionByPosition(net, plan, batch, rows, (state, i) =>
    add(g, mul(g, state, slice(g, own, 1, i, i + 1)), slice(g, given, 1, i, i + 1)),
  );
  g.output('before', concat(g, states, 1));
  return pruned(net.finish().graph);
}

/** The first `count` states, [B, 1, D] each. @param read what stands in place of a state that was made. Default: itself */
function positionByPosition(
  net: NetworkBuilder,
  { model, shape }: DeprojectorPlan,
  batch: number,
  count: number,
  read: (state: Value, position: number) => Value = (state) => state,
): readonly Value[] {
  const { g } = net;
  const { hiddenSize: width } = shape;
  const embedding = g.input('embedding', 'float32', [batch, width]);
  const origin = g.input('origin', 'float32', [width]);
  const next = model.begin(net, shape, reshape(g, embedding, [batch, 1, width]));
  const states: Value[] = [];
  let before: Value | null = null;
  for (let i = 0; i < count; i++) {
    const state = read(layerNorm(net, next(before), FINAL_NORM, shape.layerNormEpsilon), i);
    states.push(state);
    before = sub(g, state, origin);
  }
  return states;
}

const FINAL_NORM = 'final_layer_norm';

/** A network whose parameters are inputs of the graph. */
class ParameterInputs extends NetworkBuilder {
  readonly parameters = new Map<string, Value>();

  constructor() {
    super({ label: 'parameters', get: () => undefined });
  }

  override weight(paramName: string, shape: readonly number[]): Value {
    const name = this.path === '' ? paramName : `${this.path}.${paramName}`;
    const known = this.parameters.get(name) ?? this.g.input(name, 'float32', shape);
    this.parameters.set(name, known);
    return known;
  }
}
