/** What a UNet tells of words: probabilities of its own attention, in the rows that are asked for. */
import { expect, it } from 'vitest';
import { multiHeadAttention } from '../../src/graph/ops/attention.ts';
import { NetworkBuilder } from '../../src/models/network.ts';
import {
  heardKeyInput,
  heardWordsInput,
  queriesOutput,
  sharesOutput,
  tellWords,
} from '../../src/models/unet/word-shares.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';

it('shares of words are the probabilities that attention itself uses', async () => {
  const [batch, rows, tokens, heads, d] = [3, 6, 5, 2, 3];
  const width = heads * d;
  const random = new TorchGenerator(1);
  const query = float32([batch, rows, width], random.randn(batch * rows * width));
  const key = float32([2, tokens, width], random.randn(2 * tokens * width));
  const net = new NetworkBuilder({ label: 'none', get: () => undefined });
  const { g } = net;
  const q = g.input('q', 'float32', [batch, rows, width]);
  const k = g.input('k', 'float32', [2, tokens, width]);
  const told = g.input('told', 'float32', [2, rows, width]);
  // Values that name their token: attention returns its own probabilities.
  const identity = float32([2, tokens, heads * tokens]);
  for (let t = 0; t < 2 * tokens; t++) {
    for (let h = 0; h < heads; h++) identity.data[t * heads * tokens + h * tokens + (t % tokens)] = 1;
  }
  g.output('p', multiHeadAttention(g, { q: told, k, v: g.constant(identity) }, heads));
  const setup = { words: 2, tokens, rows: [1, 3], layers: new Set(['block.attn2']) } as const;
  net.within('block.attn2', () => tellWords(net, q, heads, setup));
  net.within('other.attn2', () => tellWords(net, q, heads, setup));
  const { graph } = net.finish();
  expect(graph.outputs.size).toBe(3);
  const session = await defaultRuntime().load(graph, 'once');
  const last = query.data.subarray(rows * width);
  // The first token, and the third with the last.
  const columns = [1, 0, 0, 0, 0, 1, 0, 0, 0, 1];
  const outputs = await session.run({
    q: query,
    told: float32([2, rows, width], last),
    k: key,
    [heardKeyInput('block.attn2')]: key,
    [heardWordsInput('block.attn2')]: float32([tokens, 2], columns),
  });
  await session.dispose();
  const probabilities = outputs.p!.data as Float32Array;
  const mean = (n: number, t: number): number =>
    Array.from({ length: heads }, (_, h) => probabilities[(n * heads + h) * tokens + t]!).reduce(
      (a, b) => a + b,
    ) / heads;
  const shares = outputs[sharesOutput('block.attn2')]!;
  expect(shares.shape).toEqual([2, rows, 2]);
  for (let n = 0; n < 2 * rows; n++) {
    expect(shares.data[2 * n]).toBeCloseTo(mean(n, 0), 5);
    expect(shares.data[2 * n + 1]).toBeCloseTo(mean(n, 2) + mean(n, 4), 5);
  }
  expect(outputs[queriesOutput('block.attn2')]!.data).toEqual(last);
});
