/** Gradients of matrix products. */

import { sizeOf } from '../../tensor/tensor.ts';
import type { GraphBuilder } from '../builder.ts';
import { matmul } from '../ops/matmul.ts';
import { reshape } from '../ops/movement.ts';
import type { Value } from '../value.ts';
import { only, sumTo, type Vjps } from './rule.ts';

/** [..., N, n] as one matrix of rows. */
const rows = (g: GraphBuilder, x: Value): Value =>
  x.shape.length === 2 ? x : reshape(g, x, [sizeOf(x.shape.slice(0, -1)), x.shape.at(-1)!]);

export const matmulVjps: Vjps<'FusedMatMul'> = {
  // Y = α A B: dA = α dY Bᵀ, dB = α Aᵀ dY; where an operand enters transposed, its gradient is transposed too.
  FusedMatMul: (g, { inputs: [a, b], attributes: { transA, transB, alpha } }, dys, needs) => {
    const dy = only(dys);
    let da: Value | null = null;
    let db: Value | null = null;
    if (needs[0]) {
      da = transA
        ? matmul(g, b!, dy, { transA: transB, transB: true, alpha })
        : matmul(g, dy, b!, { transB: !transB, alpha });
      da = sumTo(g, da, a!.shape);
    }
    if (needs[1]) {
      // A shared weight: one product over all rows instead of one per batch and their sum.
      const shared = b!.shape.length === 2 && !transA;
      const [left, right] = shared ? [rows(g, a!), rows(g, dy)] : [a!, dy];
      db = transB
        ? matmul(g, right, left, { transA: true, transB: transA, alpha })
        : matmul(g, left, right, { transA: !transA, alpha });
      db = sumTo(g, db, b!.shape);
    }
    return [da, db];
  },
};
