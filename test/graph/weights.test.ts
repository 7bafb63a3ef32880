/** Weights where they lie: every dtype, unaligned and strided tensors, several folders, and graphs as text. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, memoryTensor, type RawTensor, sliceRows } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { printGraph } from '../../src/graph/print.ts';
import { inOneGo } from '../../src/pace.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { encodeGraph } from '../../src/runtime/onnxruntime/encode.ts';
import { float32 } from '../../src/tensor/tensor.ts';

/** Exact in float16 and bfloat16 alike. */
const VALUES = Float32Array.of(1, -2, 0.5, 3, 4, -0.25);
const X = float32([1, 3], [1, 10, 100]);
const EXPECTED = [1 - 20 + 50, 3 + 40 - 25];

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-weights-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function product(...weights: RawTensor[]) {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [1, 3]);
  const products = weights.map((weight) => matmul(g, x, g.weight(weight, [2, 3]), { transB: true }));
  g.output(
    'y',
    products.reduce((a, b) => add(g, a, b)),
  );
  return g.finish();
}

async function run(...weights: RawTensor[]): Promise<number[]> {
  const session = await defaultRuntime().load(product(...weights), 'every-step');
  const { y } = await session.run({ x: X });
  await session.dispose();
  return [...(y!.data as Float32Array)];
}

describe('weights', () => {
  it.each(['F32', 'F16', 'BF16'] as const)(
    'are read from the file as %s, at any byte offset',
    async (dtype) => {
      const file = path.join(folder, `${dtype}.safetensors`);
      const weight = memoryTensor('w', dtype, [2, 3], encodeFloat(VALUES, dtype));
      // Wider numbers come first in the file, then a single byte: what follows is unaligned.
      await writeSafetensors(file, [weight, memoryTensor('odd', 'U8', [1], Uint8Array.of(7))]);
      const { tensors } = await openTensorFile(file);
      expect(inOneGo(encodeGraph(product(tensors.get('w')!))).weightFolder).toBe(folder);
      expect(await run(tensors.get('w')!)).toEqual(EXPECTED);
    },
  );

  it('may be rows of a larger tensor', async () => {
    const file = path.join(folder, 'rows.safetensors');
    await writeSafetensors(file, [
      float32Tensor('table', [4, 3], Float32Array.of(9, 9, 9, ...VALUES, 8, 8, 8)),
    ]);
    const { tensors } = await openTensorFile(file);
    expect(await run(sliceRows(tensors.get('table')!, 1, 2))).toEqual(EXPECTED);
  });

  it('that are strided, or lie in another folder, travel with the graph', async () => {
    const other = path.join(folder, 'other');
    mkdirSync(other);
    const transposed = float32Tensor('t', [3, 2], Float32Array.of(1, 3, -2, 4, 0.5, -0.25));
    const strided: RawTensor = { ...transposed, shape: [2, 3], strides: [1, 2] };
    await writeSafetensors(path.join(folder, 'a.safetensors'), [
      float32Tensor('w', [2, 3], VALUES),
      float32Tensor('x', [2, 3], VALUES),
    ]);
    await writeSafetensors(path.join(other, 'b.safetensors'), [float32Tensor('v', [2, 3], VALUES)]);
    const near = await openTensorFile(path.join(folder, 'a.safetensors'));
    const far = await openTensorFile(path.join(other, 'b.safetensors'));
    const all = [near.tensors.get('w')!, near.tensors.get('x')!, far.tensors.get('v')!, strided];
    expect(inOneGo(encodeGraph(product(...all))).inMemory).toEqual([]);
    expect(await run(...all)).toEqual(EXPECTED.map((value) => 4 * value));
    expect(await run(strided)).toEqual(EXPECTED);
  });

  it('of integers are refused by name', () => {
    const g = new GraphBuilder();
    const raw = memoryTensor('model.ids', 'I64', [1], new Uint8Array(8));
    expect(() => g.weight(raw)).toThrow(
      'model.ids: expected a weight of dtype F32, F64, F16 or BF16, got I64',
    );
    expect(() => g.weight(float32Tensor('w', [2], Float32Array.of(1, 2)), [3])).toThrow(
      'w: expected [3], got [2]',
    );
  });
});

describe('printGraph', () => {
  it('shows a graph a line a node', () => {
    const half = memoryTensor('w', 'F16', [2, 3], encodeFloat(VALUES, 'F16'));
    expect(printGraph(product(half))).toMatchInlineSnapshot(`
      "input x: float32[1, 3]
      weight w_0: float16[2, 3] ← w
      Cast_1 = Cast(w_0) {to: "float32"}: float32[2, 3]
      FusedMatMul_2 = FusedMatMul(x, Cast_1) {transA: false, transB: true, alpha: 1}: float32[1, 2]
      output y = FusedMatMul_2: float32[1, 2]"
    `);
  });
});
