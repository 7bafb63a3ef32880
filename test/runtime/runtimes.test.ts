/** What holds for every runtime. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ShapeError } from '../../src/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add, cast } from '../../src/graph/ops/elementwise.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultBase } from '../../src/package-root.ts';
import { InterpreterRuntime } from '../../src/runtime/interpreter-runtime.ts';
import { OnnxRuntime } from '../../src/runtime/onnxruntime/onnx-runtime.ts';
import { STANDARD_TARGET } from '../../src/runtime/onnxruntime/targets.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';

const onnx = new OnnxRuntime();
/** Without a kernel of onnxruntime's own, as a device may be. */
const standard = new OnnxRuntime(STANDARD_TARGET);
const interpreter = new InterpreterRuntime();
afterAll(() => Promise.all([onnx.dispose(), standard.dispose()]));

/** y = x · a, and its double in halves. */
function graph() {
  const g = new GraphBuilder();
  const y = matmul(g, g.input('x', 'float32', [2, 2]), g.input('a', 'float32', [2, 2]));
  g.output('y', y);
  g.output('halves', cast(g, add(g, y, y), 'float16'));
  return g.finish();
}
const x = float32([2, 2], [1, 2, 3, 4]);
const a = float32([2, 2], [1, 0, 1, 1]);

describe.each([onnx, interpreter])('$traits.name', (runtime) => {
  it('computes what is asked for, from memory or from where it has it, to where it is wanted', async () => {
    const loaded = await runtime.load(graph(), 'every-step');
    const there = runtime.upload(a);
    const all = await loaded.run({ x, a: there });
    expect([...all.y!.data]).toEqual([3, 2, 7, 4]);
    expect(all.halves).toMatchObject({ dtype: 'float16', shape: [2, 2] });
    expect([...all.halves!.data]).toEqual([0x4600, 0x4400, 0x4b00, 0x4800]);
    const target = new Float32Array(4);
    const one = await loaded.run({ x, a }, ['y'], { y: target });
    expect(Object.keys(one)).toEqual(['y']);
    expect(one.y!.data).toBe(target);
    expect([...target]).toEqual([3, 2, 7, 4]);
    there.dispose();
    await loaded.dispose();
  });

  it('names the input or output that does not fit', async () => {
    const loaded = await runtime.load(graph(), 'once');
    const fails = async (run: Promise<unknown>, message: string) => {
      await expect(run).rejects.toThrow(ShapeError);
      await expect(run).rejects.toThrow(message);
    };
    await fails(loaded.run({ x }), 'input "a": expected float32[2, 2], got nothing');
    await fails(loaded.run({ x, a: float32([4]) }), 'input "a": expected float32[2, 2], got float32[4]');
    await fails(loaded.run({ x, a, b: a }), 'input "b": the graph has no such input');
    await fails(
      loaded.run({ x, a }, ['y'], { y: new Float32Array(3) }),
      'output "y": expected an array of 4, got one of 3',
    );
    await fails(loaded.run({ x, a }, ['y'], { z: new Float32Array(4) }), 'output "z"');
    await loaded.dispose();
  });

  it('throws the reason of a signal that is aborted', async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const loaded = await runtime.load(graph(), 'once', { signal });
    await loaded.run({ x, a });
    controller.abort(new Error('enough'));
    await expect(loaded.run({ x, a })).rejects.toThrow('enough');
    await expect(runtime.load(graph(), 'once', { signal })).rejects.toThrow('enough');
    await loaded.dispose();
  });
});

describe('one graph on all runtimes', () => {
  let base: Checkpoint;
  beforeAll(async () => {
    base = await openCheckpoint(defaultBase());
  });

  it('is one function: a UNet with weights from a file', async () => {
    const { weights, config } = base.parts.unet;
    const size = { batch: 1, latentHeight: 4, latentWidth: 4, tokens: 5 };
    const { graph: unet } = buildUnet(weights, config, size, { layerwiseContext: false });
    const random = new TorchGenerator(5);
    const feeds: Record<string, Tensor> = Object.fromEntries(
      unet.inputs.map(({ name, shape }) => [name, float32(shape, random.randn(sizeOf(shape)))]),
    );
    feeds.timestep = float32([1], [500]);
    const [reference, ...others] = await Promise.all(
      [interpreter, onnx, standard].map(async (runtime) => {
        const { noise_pred } = await (await runtime.load(unet, 'once')).run(feeds);
        return noise_pred!.data as Float32Array;
      }),
    );
    for (const other of others) expect(other).toBeAllClose(reference!, { rtol: 1e-4 });
  });
});
