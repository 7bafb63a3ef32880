/** Weights of half width: widened at load or in every run, the results agree; and in runs they never lie there all at once. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { memoryTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { add } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { halvesAreWidenedInRuns, withLeanWeights } from '../../src/runtime/half-weights.ts';
import { InterpreterRuntime } from '../../src/runtime/interpreter-runtime.ts';
import { withWeightsInMemory } from '../../src/runtime/onnxruntime/weight-mapping.ts';
import type { GraphUse, Runtime } from '../../src/runtime/runtime.ts';
import { float32 } from '../../src/tensor/tensor.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-halves-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

type Half = 'F16' | 'BF16';

/**
 * x ← x + x Wᵀ, layer after layer, each with its own weight in the file.
 * @param back then x ← x + x W, from the last to the first, as gradients go
 */
async function layers(dtype: Half, count: number, size: number, back = false) {
  const file = path.join(folder, `${dtype}-${count}-${size}${back ? '-back' : ''}.safetensors`);
  const names = Array.from({ length: count }, (_, i) => `w${i}`);
  const values = encodeFloat(
    Float32Array.from({ length: size * size }, (_, i) => ((i % 61) - 30) / (30 * size)),
    dtype,
  );
  await writeSafetensors(
    file,
    names.map((name) => memoryTensor(name, dtype, [size, size], values)),
  );
  const { tensors } = await openTensorFile(file);
  const g = new GraphBuilder();
  let x = g.input('x', 'float32', [1, size]);
  const weights = names.map((name) => g.weight(tensors.get(name)!));
  for (const weight of weights) x = add(g, x, matmul(g, x, weight, { transB: true }));
  for (const weight of back ? weights.toReversed() : []) x = add(g, x, matmul(g, x, weight));
  g.output('y', x);
  return g.finish();
}

async function result(runtime: Runtime, graph: Graph, size: number, use: GraphUse) {
  const loaded = await runtime.load(graph, use);
  const x = float32(
    [1, size],
    Float32Array.from({ length: size }, (_, i) => Math.cos(i)),
  );
  const { y } = await loaded.run({ x });
  await loaded.dispose();
  return y!.data as Float32Array;
}

describe.each(['F16', 'BF16'] as const)('weights of %s', (dtype) => {
  it.each([
    ['every-step', false],
    ['training', true],
  ] as const)(
    'give what the interpreter gives, widened at load or in runs, mapped or in memory: %s',
    async (use, back) => {
      const graph = await layers(dtype, 3, 24, back);
      const expected = await result(new InterpreterRuntime(), graph, 24, use);
      const ours = () => result(defaultRuntime(), graph, 24, use);
      for (const data of [
        await ours(),
        await withLeanWeights(ours),
        await withWeightsInMemory(() => withLeanWeights(ours)),
      ]) {
        expect(data).toBeAllClose(expected, { rtol: 1e-6 });
      }
    },
  );
});

describe.skipIf(process.platform !== 'linux')('memory', () => {
  const held = (): number =>
    1024 * Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);

  it('is that of one widened weight at a time, there and back', async () => {
    const [count, size] = [24, 1024];
    const wide = 4 * count * size ** 2;
    const there = await layers('F16', count, size);
    const back = await layers('F16', count, size, true);
    const grown = async (graph: Graph, use: GraphUse): Promise<number> => {
      const before = held();
      const loaded = await defaultRuntime().load(graph, use);
      await loaded.run({ x: float32([1, size], new Float32Array(size)) });
      const after = held();
      await loaded.dispose();
      return after - before;
    };
    expect(await withLeanWeights(() => grown(there, 'once'))).toBeLessThan(wide / 2);
    expect(await withLeanWeights(() => grown(back, 'training'))).toBeLessThan(wide / 2);
    expect(await grown(there, 'once')).toBeGreaterThan(0.8 * wide);
  });
});

it('holds for a job and what it calls, or for the process', async () => {
  expect(halvesAreWidenedInRuns({})).toBe(false);
  expect(halvesAreWidenedInRuns({ EDLORA_LEAN: '0' })).toBe(false);
  expect(halvesAreWidenedInRuns({ EDLORA_LEAN: '1' })).toBe(true);
  const inside = withLeanWeights(async () => {
    await null;
    return halvesAreWidenedInRuns({});
  });
  expect(halvesAreWidenedInRuns({})).toBe(false);
  expect(await inside).toBe(true);
});
