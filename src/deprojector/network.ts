/** A deprojector as a graph: for training, with its parameters as inputs, and for use, all positions one after the other. */
import { gradients } from '../graph/autodiff.ts';
import type { GraphBuilder } from '../graph/builder.ts';
import { writeGradients } from '../graph/gradient-outputs.ts';
import type { Graph } from '../graph/graph.ts';
import { mul, sub } from '../graph/ops/elementwise.ts';
import { concat, reshape } from '../graph/ops/movement.ts';
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
export function buildApplication(
  { model, shape, positions }: DeprojectorPlan,
  weights: WeightSource,
  batch: number,
): Network {
  const net = new NetworkBuilder(weights);
  const { g } = net;
  const { hiddenSize: width } = shape;
  const embedding = g.input('embedding', 'float32', [batch, width]);
  const origin = g.input('origin', 'float32', [width]);
  const next = model.begin(net, shape, reshape(g, embedding, [batch, 1, width]));
  const states: Value[] = [];
  let before: Value | null = null;
  for (let i = 0; i < positions; i++) {
    const state = layerNorm(net, next(before), FINAL_NORM, shape.layerNormEpsilon);
    states.push(state);
    before = relative(g, state, origin);
  }
  g.output('states', concat(g, states, 1));
  return net.finish();
}

const FINAL_NORM = 'final_layer_norm';

const relative = (g: GraphBuilder, state: Value, origin: Value): Value => sub(g, state, origin);

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
