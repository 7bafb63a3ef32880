import type { ElementwiseOp } from '../ops/elementwise.ts';
import { broadcastOffset, type Dense, dense, type Evaluators, forEachIndex, stridesOf } from './evaluator.ts';

const binary =
  (apply: (a: number, b: number) => number) =>
  ([a, b]: readonly (Dense | null)[], { outputs }: { outputs: readonly { shape: readonly number[] }[] }) => {
    const out = dense(outputs[0]!.shape);
    const [stridesA, stridesB] = [stridesOf(a!.shape), stridesOf(b!.shape)];
    forEachIndex(out.shape, (flat, index) => {
      const p = a!.data[broadcastOffset(index, a!.shape, stridesA)]!;
      out.data[flat] = apply(p, b!.data[broadcastOffset(index, b!.shape, stridesB)]!);
    });
    return [out];
  };
const unary =
  (apply: (x: number) => number) =>
  ([x]: readonly (Dense | null)[]) => [dense(x!.shape, x!.data.map(apply))];

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/**
 * The error function: its Taylor series where that converges without cancellation, else one minus the
 * continued fraction of erfc (Lentz's method). About 1e-15.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 80 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let k = 60; k >= 1; k--) fraction = k / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + fraction) * Math.sqrt(Math.PI)));
}

/** Elementwise operators, number by number. */
export const evaluateElementwise: Evaluators<ElementwiseOp> = {
  Add: binary((a, b) => a + b),
  Sub: binary((a, b) => a - b),
  Mul: binary((a, b) => a * b),
  Div: binary((a, b) => a / b),
  Sqrt: unary(Math.sqrt),
  Exp: unary(Math.exp),
  Sin: unary(Math.sin),
  Cos: unary(Math.cos),
  Sigmoid: unary(sigmoid),
  Erf: unary(erf),
  Equal: binary((a, b) => (a === b ? 1 : 0)),
  StopGradient: ([x]) => [x!],
  QuickGelu: ([x], { attributes: { alpha } }) => unary((v) => v * sigmoid(alpha * v))([x!]),
  Gelu: unary((x) => 0.5 * x * (1 + erf(x / Math.SQRT2))),
  Cast: ([x]) => [x!],
};
