/** The arithmetic of a graph, against counts by hand. */
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { multiplyAdds } from '../../src/graph/multiply-adds.ts';
import { multiHeadAttention } from '../../src/graph/ops/attention.ts';
import { conv } from '../../src/graph/ops/convolution.ts';
import { add, cast } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import type { Value } from '../../src/graph/value.ts';

function counted(
  write: (g: GraphBuilder, input: (name: string, shape: readonly number[]) => Value) => Value,
) {
  const g = new GraphBuilder();
  g.output(
    'out',
    write(g, (name, shape) => g.input(name, 'float32', shape)),
  );
  return multiplyAdds(g.finish());
}

describe('multiplyAdds', () => {
  it('of products is rows × inner × columns, whichever side is transposed', () => {
    expect(counted((g, input) => matmul(g, input('a', [2, 5, 7]), input('b', [7, 11])))).toBe(2 * 5 * 7 * 11);
    const transposed = counted((g, input) =>
      matmul(g, input('a', [7, 5]), input('b', [11, 7]), { transA: true, transB: true }),
    );
    expect(transposed).toBe(5 * 7 * 11);
  });

  it('counts float64 twice, and element-wise work not at all', () => {
    const count = counted((g, input) => {
      const rows = cast(g, input('x', [6, 3]), 'float64');
      return matmul(g, add(g, rows, rows), rows, { transA: true });
    });
    expect(count).toBe(2 * 3 * 6 * 3);
  });

  it('of a convolution is a product for each of its places, and as much for its transpose', () => {
    const [kernel, places] = [4 * 3 * 3 * 3, 2 * 4 * 5];
    const forward = counted((g, input) =>
      conv(g, input('x', [2, 3, 8, 10]), input('w', [4, 3, 3, 3]), null, { stride: 2, pads: 1 }),
    );
    expect(forward).toBe(places * kernel);
    const back = counted(
      (g, input) =>
        g.node('ConvTranspose', [input('x', [2, 4, 4, 5]), input('w', [4, 3, 3, 3])], {
          strides: [2, 2],
          pads: [1, 1, 1, 1],
          height: 8,
          width: 10,
        })[0]!,
    );
    expect(back).toBe(places * kernel);
  });

  it('of an attention is its scores and what they weigh', () => {
    const count = counted((g, input) =>
      multiHeadAttention(
        g,
        { q: input('q', [2, 5, 8]), k: input('k', [2, 7, 8]), v: input('v', [2, 7, 12]) },
        4,
      ),
    );
    expect(count).toBe(2 * 5 * 7 * (8 + 12));
  });
});
