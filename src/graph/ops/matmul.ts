/** Matrix products. */
import { ShapeError } from '../../errors.ts';
import type { NodeWriter } from '../node-writer.ts';
import type { Value } from '../value.ts';
import { broadcastShapes, required, type ShapeRules, sameDtype } from './rule.ts';

export const matmulShapes: ShapeRules<'FusedMatMul'> = {
  FusedMatMul: (inputs, { transA, transB }) => {
    const a = required(inputs, 0);
    const b = required(inputs, 1);
    if (a.shape.length < 2 || b.shape.length < 2)
      throw new ShapeError('expected matrices (two axes or more)');
    const [p, q] = a.shape.slice(-2) as [number, number];
    const [r, s] = b.shape.slice(-2) as [number, number];
    const [rows, innerA] = transA ? [q, p] : [p, q];
    const [innerB, cols] = transB ? [s, r] : [r, s];
    if (innerA !== innerB) throw new ShapeError(`inner axes differ: ${innerA} and ${innerB}`);
    const lead = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
    return [{ dtype: sameDtype([a, b]), shape: [...lead, rows, cols] }];
  },
};

/** alpha · op(A) · op(B); op transposes the last two axes where asked. Leading axes broadcast. */
export function matmul(
  g: NodeWriter,
  a: Value,
  b: Value,
  { transA = false, transB = false, alpha = 1 } = {},
): Value {
  return g.node('FusedMatMul', [a, b], { transA, transB, alpha })[0]!;
}
