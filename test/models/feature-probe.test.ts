/** What a network returns of a layer's input for sums: strips of a Gram matrix in float64, on the runtime and by the interpreter. */
import { expect, it } from 'vitest';
import { GramAccumulator } from '../../src/linalg/gram.ts';
import { NetworkBuilder } from '../../src/models/network.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { InterpreterRuntime } from '../../src/runtime/interpreter-runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';

it.each([
  ['the runtime', defaultRuntime()],
  ['the interpreter', new InterpreterRuntime()],
])('is XᵀX of a wide input to the rounding of float64, by %s', async (_, runtime) => {
  const [rows, width] = [6, 258];
  const net = new NetworkBuilder(
    { label: 'none', get: () => undefined },
    { probes: { features: ['layer'] } },
  );
  net.probeInput('layer', net.g.input('x', 'float32', [rows, width]));
  const { graph, probes } = net.finish();
  const x = float32([rows, width], new TorchGenerator(3).randn(rows * width));
  const session = await runtime.load(graph, 'once');
  const { output, ...probe } = probes.features.get('layer')!;
  expect(probe).toEqual({ input: 'layer', form: 'gram', rows, width });
  const found = new GramAccumulator(width);
  found.addStrips((await session.run({ x }))[output]!.data as Float64Array, rows);
  await session.dispose();
  const expected = new GramAccumulator(width);
  expected.addRows(x.data);
  expect(found.toMatrix().data).toBeAllClose(expected.toMatrix().data, { rtol: 1e-14 });
});
