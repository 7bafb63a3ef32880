/** Gram matrices of feature rows as nodes: inside of a network, or of rows that a network returned. */
import { gramStrips } from '../linalg/gram.ts';
import type { GraphBuilder } from './builder.ts';
import { cast } from './ops/elementwise.ts';
import { matmul } from './ops/matmul.ts';
import { concat, reshape, slice } from './ops/movement.ts';
import type { Value } from './value.ts';

/** XᵀX of X [N, n] in float64, the strips of its upper triangle (`gramStrips`) one after the other. */
export function gramOfRows(g: GraphBuilder, x: Value): Value {
  const width = x.shape[1]!;
  const wide = cast(g, x, 'float64');
  const columns = (from: number, to: number): Value =>
    to - from === width ? wide : slice(g, wide, 1, from, to);
  const strips = gramStrips(width).map(({ start, end }) => {
    const product = matmul(g, columns(start, end), columns(start, width), { transA: true });
    return reshape(g, product, [(end - start) * (width - start)]);
  });
  return strips.length === 1 ? strips[0]! : concat(g, strips, 0);
}
