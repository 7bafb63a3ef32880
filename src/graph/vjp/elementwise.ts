/** Gradients of elementwise operators. */

import type { ElementwiseOp } from '../ops/elementwise.ts';
import { add, cast, cos, div, erf, exp, mul, sigmoid, sin, sub } from '../ops/elementwise.ts';
import { number, only, scaled, sumTo, type Vjps } from './rule.ts';

export const elementwiseVjps: Vjps<ElementwiseOp> = {
  Add: (g, { inputs: [a, b] }, dys, needs) => [
    needs[0] ? sumTo(g, only(dys), a!.shape) : null,
    needs[1] ? sumTo(g, only(dys), b!.shape) : null,
  ],
  Sub: (g, { inputs: [a, b] }, dys, needs) => [
    needs[0] ? sumTo(g, only(dys), a!.shape) : null,
    needs[1] ? scaled(g, sumTo(g, only(dys), b!.shape), -1) : null,
  ],
  // d(ab) = b da + a db
  Mul: (g, { inputs: [a, b] }, dys, needs) => [
    needs[0] ? sumTo(g, mul(g, only(dys), b!), a!.shape) : null,
    needs[1] ? sumTo(g, mul(g, only(dys), a!), b!.shape) : null,
  ],
  // d(a/b) = da/b − y db/b
  Div: (g, { inputs: [a, b], outputs: [y] }, dys, needs) => {
    const quotient = div(g, only(dys), b!);
    return [
      needs[0] ? sumTo(g, quotient, a!.shape) : null,
      needs[1] ? scaled(g, sumTo(g, mul(g, quotient, y!), b!.shape), -1) : null,
    ];
  },
  // dx = dy / 2y
  Sqrt: (g, { outputs: [y] }, dys) => [scaled(g, div(g, only(dys), y!), 0.5)],
  Exp: (g, { outputs: [y] }, dys) => [mul(g, only(dys), y!)],
  Sin: (g, { inputs: [x] }, dys) => [mul(g, only(dys), cos(g, x!))],
  Cos: (g, { inputs: [x] }, dys) => [scaled(g, mul(g, only(dys), sin(g, x!)), -1)],
  // dx = dy y (1 − y)
  Sigmoid: (g, { outputs: [y] }, dys) => [mul(g, only(dys), mul(g, y!, sub(g, number(g, y!, 1), y!)))],
  // dx = dy · 2/√π · exp(−x²)
  Erf: (g, { inputs: [x] }, dys) => {
    const slope = exp(g, scaled(g, mul(g, x!, x!), -1));
    return [mul(g, only(dys), scaled(g, slope, 2 / Math.sqrt(Math.PI)))];
  },
  // y = x s, s = σ(αx): dx = dy · s (1 + αx (1 − s)). From x alone, so that y need not be kept.
  QuickGelu: (g, { inputs: [x], attributes: { alpha } }, dys) => {
    const ax = alpha === 1 ? x! : scaled(g, x!, alpha);
    const s = sigmoid(g, ax);
    const one = number(g, s, 1);
    const slope = mul(g, s, add(g, mul(g, ax, sub(g, one, s)), one));
    return [mul(g, only(dys), slope)];
  },
  // y = x Φ(x): dx = dy · (Φ(x) + x φ(x))
  Gelu: (g, { inputs: [x] }, dys) => {
    const cumulative = scaled(g, add(g, erf(g, scaled(g, x!, Math.SQRT1_2)), number(g, x!, 1)), 0.5);
    const density = scaled(g, exp(g, scaled(g, mul(g, x!, x!), -0.5)), 1 / Math.sqrt(2 * Math.PI));
    return [mul(g, only(dys), add(g, cumulative, mul(g, x!, density)))];
  },
  Cast: (g, { inputs: [x] }, dys) => {
    const { dtype } = x!;
    return [dtype === 'float32' || dtype === 'float64' ? cast(g, only(dys), dtype) : null];
  },
  StopGradient: () => [null],
  Equal: { noGradient: 'a comparison is a step: its derivative is zero wherever it has one' },
};
