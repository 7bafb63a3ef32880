/**
 * Gradient checker: along a random direction v, ⟨gradient, v⟩ must equal the slope of the function. Two scalars are
 * compared, in float64, the slope by Richardson's extrapolation of central differences. Inputs must lie away from
 * kinks.
 */
import { gradients } from '../../src/graph/autodiff.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { mul } from '../../src/graph/ops/elementwise.ts';
import { reduceSum } from '../../src/graph/ops/reduction.ts';
import type { Value } from '../../src/graph/value.ts';
import type { VjpTable } from '../../src/graph/vjp/rules.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float64, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';

export type Write = (g: GraphBuilder, ...inputs: Value[]) => Value | readonly Value[];

export interface GradcheckOptions {
  readonly rules?: VjpTable;
  readonly seed?: number;
  /** Integer inputs that are not differentiated, behind the float ones. */
  readonly fixed?: readonly Tensor[];
}

/** Random float64 normals of this shape. */
export function normals(shape: readonly number[], seed: number): Tensor<Float64Array> {
  return float64(shape, new TorchGenerator(seed).randnFloat64(sizeOf(shape)));
}

/**
 * Largest relative disagreement over three random directions of inputs and of the gradient that enters.
 * The function checked is Σ_k ⟨w_k, output_k⟩ with random w.
 */
export function gradcheck(
  write: Write,
  inputs: readonly Tensor<Float64Array>[],
  { rules, seed = 1, fixed = [] }: GradcheckOptions = {},
): number {
  const g = new GraphBuilder();
  const values = inputs.map((tensor, i) => g.input(`x${i}`, 'float64', tensor.shape));
  const others = fixed.map((tensor, i) => g.input(`fixed${i}`, tensor.dtype, tensor.shape));
  const written = write(g, ...values, ...others);
  const results = Array.isArray(written) ? (written as readonly Value[]) : [written as Value];
  const weights = results.map((result, k) => normals(result.shape, seed + 100 + k));
  const seeds = new Map(results.map((result, k) => [result, g.input(`w${k}`, 'float64', result.shape)]));
  results.forEach((result, k) => {
    const weighted = mul(g, result, seeds.get(result)!);
    g.output(
      `sum${k}`,
      reduceSum(
        g,
        weighted,
        result.shape.map((_, axis) => axis),
        false,
      ),
    );
  });
  const found = gradients(g, seeds, values, rules === undefined ? {} : { rules });
  [...found].forEach(([, d], i) => {
    g.output(`d${i}`, d);
  });
  const graph = g.finish();
  const run = (at: readonly Tensor[]): Record<string, Tensor> =>
    interpret(graph, {
      ...Object.fromEntries(at.map((tensor, i) => [`x${i}`, tensor])),
      ...Object.fromEntries(fixed.map((tensor, i) => [`fixed${i}`, tensor])),
      ...Object.fromEntries(weights.map((tensor, k) => [`w${k}`, tensor])),
    });
  const valueAt = (at: readonly Tensor[]): number => {
    const out = run(at);
    return results.reduce((sum, _, k) => sum + (out[`sum${k}`]!.data as Float64Array)[0]!, 0);
  };
  const analytic = run(inputs);
  let worst = 0;
  for (let direction = 0; direction < 3; direction++) {
    const v = inputs.map((tensor, i) => normals(tensor.shape, seed + 1000 * (direction + 1) + i));
    const moved = (step: number): Tensor[] =>
      inputs.map(({ shape, data }, i) =>
        float64(
          shape,
          data.map((x, k) => x + step * v[i]!.data[k]!),
        ),
      );
    const central = (step: number): number => (valueAt(moved(step)) - valueAt(moved(-step))) / (2 * step);
    const step = 1e-3;
    const slope = (4 * central(step / 2) - central(step)) / 3;
    const product = v.reduce((sum, { data }, i) => {
      const d = analytic[`d${i}`]!.data as Float64Array;
      return sum + data.reduce((s, x, k) => s + x * d[k]!, 0);
    }, 0);
    worst = Math.max(worst, Math.abs(product - slope) / Math.max(Math.abs(slope), 1e-3));
  }
  return worst;
}
