/** A convolution that keeps to parts of the picture is, in each, the convolution of that part with nothing around it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { conv } from '../../src/graph/ops/convolution.ts';
import { plainLayout, sharedConv } from '../../src/models/unet/region-attention.ts';
import { keepApart } from '../../src/sampling/region-parts.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';

const [BATCH, CHANNELS, OUT] = [2, 3, 2];
const half = (size: number): number => Math.ceil(size / 2);

/** Two levels of a picture whose cells have random owners: 0, the background, or one of two regions. */
const pictures = fc
  .record({ height: fc.integer({ min: 1, max: 5 }), width: fc.integer({ min: 1, max: 6 }) })
  .chain(({ height, width }) => {
    const owners = (count: number) =>
      fc.array(fc.integer({ min: 0, max: 2 }), { minLength: count, maxLength: count });
    return fc.record({
      levels: fc.constant([
        { height, width },
        { height: half(height), width: half(width) },
      ]),
      owners: fc.tuple(owners(height * width), owners(half(height) * half(width))),
    });
  });

describe.each([1, 2] as const)('a convolution of stride %i', (stride) => {
  it('reads its own part alone, and for the background everything', async () => {
    await fc.assert(
      fc.asyncProperty(pictures, fc.nat(), async ({ levels, owners }, seed) => {
        const random = new TorchGenerator(seed);
        const [input, output] = [levels[0]!, levels[stride - 1]!];
        const count = input.height * input.width;
        const x = random.randn(BATCH * CHANNELS * count);
        const weight = float32([OUT, CHANNELS, 3, 3], random.randn(OUT * CHANNELS * 9));
        const options = { stride, pads: 1 };
        const run = async (values: Float32Array, apart: boolean) => {
          const g = new GraphBuilder();
          const picture = g.input('x', 'float32', [BATCH, CHANNELS, input.height, input.width]);
          const kept = keepApart(owners, 3, levels);
          const rows = levels.map(({ height, width }) => height * width);
          const plain = plainLayout(1, rows);
          const layout = {
            ...plain,
            levels: plain.levels.map((level, i) => ({ ...level, apart: kept.levels[i]! })),
          };
          const write = apart ? sharedConv(layout, levels) : conv;
          g.output('y', write(g, picture, g.constant(weight), null, options));
          const graph = g.finish();
          const wanted = new Set(graph.inputs.map(({ name }) => name));
          const feeds = Object.fromEntries(Object.entries(kept.feeds).filter(([name]) => wanted.has(name)));
          const { y } = interpret(graph, { ...feeds, x: float32(picture.shape, values) });
          return y!.data as Float32Array;
        };
        const apart = await run(x, true);
        const target = owners[stride - 1]!;
        for (const owner of [0, 1, 2]) {
          const masked = x.map((value, i) => (owner === 0 || owners[0][i % count] === owner ? value : 0));
          const own = await run(masked, false);
          const rows = output.height * output.width;
          apart.forEach((value, i) => {
            if (target[i % rows] === owner) expect(value).toBeCloseTo(own[i]!, 4);
          });
        }
      }),
      { numRuns: 25 },
    );
  });
});
