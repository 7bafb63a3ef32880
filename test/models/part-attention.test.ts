/** Self-attention that keeps to parts. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { NetworkBuilder } from '../../src/models/network.ts';
import { plainLayout, sharedAttentions } from '../../src/models/unet/region-attention.ts';
import { attentionPlaces } from '../../src/models/unet/structure.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { type KeptApart, keepApart } from '../../src/sampling/region-parts.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';

const { weights, config } = (await openCheckpoint('fixtures/goldens/tiny-random/model')).parts.unet;
const [place] = attentionPlaces(config);
const WIDTH = config.blocks[0]!.channels;
const SIZE = { height: 2, width: 5 };
const ROWS = SIZE.height * SIZE.width;

async function attended(x: Float32Array, kept: KeptApart | null): Promise<Float32Array> {
  const net = new NetworkBuilder(weights);
  const plain = plainLayout(1, [ROWS]);
  const levels = plain.levels.map((level) => ({ ...level, apart: kept?.levels[0] ?? null }));
  const input = net.g.input('x', 'float32', [2, ROWS, WIDTH]);
  const { self } = sharedAttentions({ ...plain, levels });
  net.within(`${place!.path}.attn1`, () => net.g.output('y', self(net, input, { ...place!, level: 0 })));
  const { graph } = net.finish();
  const wanted = new Set(graph.inputs.map(({ name }) => name));
  const feeds = Object.entries(kept?.feeds ?? {}).filter(([name]) => wanted.has(name));
  const session = await defaultRuntime().load(graph, 'once');
  const { y } = await session.run({ x: float32(input.shape, x), ...Object.fromEntries(feeds) });
  await session.dispose();
  return y!.data as Float32Array;
}

it('of a part is what it attends to alone, of the background all; everybody’s where all is background', async () => {
  const owners = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: ROWS, maxLength: ROWS });
  await fc.assert(
    fc.asyncProperty(owners, fc.nat(), async (own, seed) => {
      const x = new TorchGenerator(seed).randn(2 * ROWS * WIDTH);
      const apart = await attended(x, keepApart([own], 3, [SIZE]));
      const all = await attended(x, null);
      for (const part of [0, 1, 2]) {
        // Whatever stands in the rows of others.
        const first = own.indexOf(part);
        const alone =
          part === 0 ? all : await attended(replaced(x, own, part, first), keepApart([own], 3, [SIZE]));
        own.forEach((owner, row) => {
          if (owner === part)
            expect(rowOf(apart, row)).toBeAllClose(rowOf(alone, row), { rtol: 1e-5, atol: 1e-5 });
        });
      }
    }),
    { numRuns: 12 },
  );
  const x = new TorchGenerator(0).randn(2 * ROWS * WIDTH);
  const background = Array<number>(ROWS).fill(0);
  expect(await attended(x, keepApart([background], 3, [SIZE]))).toBeAllClose(await attended(x, null), {
    rtol: 1e-5,
    atol: 1e-6,
  });
});

/** A row of the first picture. */
const rowOf = (values: Float32Array, row: number): Float32Array =>
  values.slice(row * WIDTH, (row + 1) * WIDTH);

/** Every row of another part replaced by one of this part's. */
function replaced(x: Float32Array, own: readonly number[], part: number, first: number): Float32Array {
  const other = x.slice();
  for (const picture of [0, 1]) {
    own.forEach((owner, row) => {
      if (owner === part || first < 0) return;
      const [to, from] = [picture * ROWS + row, picture * ROWS + first].map((at) => at * WIDTH);
      other.set(x.subarray(from, from! + WIDTH), to);
    });
  }
  return other;
}
