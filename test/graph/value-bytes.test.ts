import { expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add, mul } from '../../src/graph/ops/elementwise.ts';
import { reshape } from '../../src/graph/ops/movement.ts';
import { valueBytes } from '../../src/graph/value-bytes.ts';
import { float32 } from '../../src/tensor/tensor.ts';

it('counts what a run computes, and neither what constants alone make nor other shapes of a value', () => {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [2, 3]);
  const constant = g.constant(float32([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)));
  const fixed = mul(g, constant, constant);
  g.output('y', reshape(g, add(g, add(g, x, fixed), x), [6]));
  expect(valueBytes(g.finish())).toBe(2 * 6 * 4);
});
