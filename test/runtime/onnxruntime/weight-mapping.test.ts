/** Mapped weights: a file that changes under a loaded network is noticed before it is touched; or none is mapped at all. */
import { mkdtempSync, rmSync, truncateSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../../src/errors.ts';
import { openTensorFile } from '../../../src/formats/open-tensor-file.ts';
import { float32Tensor } from '../../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import { GraphBuilder } from '../../../src/graph/builder.ts';
import { matmul } from '../../../src/graph/ops/matmul.ts';
import { defaultRuntime } from '../../../src/runtime/default-runtime.ts';
import { weightsAreMapped, withWeightsInMemory } from '../../../src/runtime/onnxruntime/weight-mapping.ts';
import type { LoadedGraph } from '../../../src/runtime/runtime.ts';
import { float32 } from '../../../src/tensor/tensor.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-mapping-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Large enough to lie in pages of its own. */
const SIZE = 256;

async function load(name: string) {
  const file = path.join(folder, `${name}.safetensors`);
  const values = Float32Array.from({ length: SIZE * SIZE }, (_, i) => (i % 7) - 3);
  await writeSafetensors(file, [float32Tensor('w', [SIZE, SIZE], values)]);
  utimesSync(file, 1_700_000_000, 1_700_000_000);
  const { tensors } = await openTensorFile(file);
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [1, SIZE]);
  g.output('y', matmul(g, x, g.weight(tensors.get('w')!, [SIZE, SIZE]), { transB: true }));
  const graph = g.finish();
  return { file, graph };
}
const X = { x: float32([1, SIZE], Array(SIZE).fill(1)) };
const sum = (result: Awaited<ReturnType<LoadedGraph['run']>>): number =>
  (result.y!.data as Float32Array).reduce((a, b) => a + b, 0);

describe('a mapped file', () => {
  it('that was cut is refused at the next run, which would have ended the process', async () => {
    const { file, graph } = await load('cut');
    const session = await defaultRuntime().load(graph, 'once');
    await session.run(X);
    truncateSync(file, 100);
    await expect(session.run(X)).rejects.toThrow(FormatError);
    await expect(session.run(X)).rejects.toThrow(/cut\.safetensors: expected the file as it was/);
    await session.dispose();
  });

  it('that changed before the network was loaded is refused then', async () => {
    const { file, graph } = await load('before');
    utimesSync(file, 1_700_000_001, 1_700_000_001);
    await expect(defaultRuntime().load(graph, 'every-step')).rejects.toThrow(
      /before\.safetensors: expected the file/,
    );
  });
});

describe('weights in memory', () => {
  it('give the same numbers, and outlive their file', async () => {
    const { file, graph } = await load('memory');
    const mapped = await defaultRuntime().load(graph, 'every-step');
    const expected = sum(await mapped.run(X));
    await mapped.dispose();
    const session = await withWeightsInMemory(() => defaultRuntime().load(graph, 'every-step'));
    truncateSync(file, 100);
    expect(sum(await session.run(X))).toBe(expected);
    await session.dispose();
  });

  it('are asked for around a job, or by the environment', async () => {
    expect(weightsAreMapped({})).toBe(true);
    expect(weightsAreMapped({ EDLORA_NO_MMAP: '1' })).toBe(false);
    expect(weightsAreMapped({ EDLORA_NO_MMAP: '0' })).toBe(true);
    const inside = withWeightsInMemory(async () => {
      await Promise.resolve();
      return weightsAreMapped({});
    });
    expect(weightsAreMapped({})).toBe(true);
    expect(await inside).toBe(false);
  });
});
