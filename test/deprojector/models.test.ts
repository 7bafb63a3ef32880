/** The three models as PyTorch has them: states, losses, gradients, and the states that they make alone. */
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { DEPROJECTOR_MODEL_NAMES, DEPROJECTOR_MODELS } from '../../src/deprojector/models/index.ts';
import { buildApplication, buildOwnStates, buildStep } from '../../src/deprojector/network.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { gradientOutput } from '../../src/graph/gradient-outputs.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';

let goldens: TensorFile;
beforeAll(async () => {
  goldens = await openSafetensors(path.join(packageRoot(), 'fixtures/deprojector/goldens.safetensors'));
});
const golden = (name: string): Tensor<Float32Array> => {
  const raw = goldens.tensors.get(name)!;
  return float32(raw.shape, readFloat32(raw));
};
const size = (name: string): number => Number(goldens.metadata.get(name));

/** Not the same in every column: norms would take that out again. */
const OFF = (column: number): number => (column % 2 === 0 ? 0.5 : 0);

describe.each(DEPROJECTOR_MODEL_NAMES)('%s', (name) => {
  const plan = () => ({
    model: DEPROJECTOR_MODELS[name],
    positions: size('positions'),
    shape: {
      hiddenSize: size('width'),
      numHeads: size('heads'),
      intermediateSize: size('inner'),
      vicinity: size('vicinity'),
      layerNormEpsilon: size('epsilon'),
      hiddenAct: 'quick_gelu' as const,
    },
  });
  const tolerance = { rtol: 1e-4, atol: 1e-5 };

  it('has the reference’s losses and gradients', async () => {
    const states = golden('states');
    const { graph, parameters } = buildStep(plan(), states.shape[0]!, true);
    const given = [...goldens.tensors.keys()].filter((key) => key.startsWith(`${name}|parameter|`));
    expect([...parameters.keys()].map((key) => `${name}|parameter|${key}`).sort()).toEqual(given.sort());
    const session = await defaultRuntime().load(graph, 'training');
    const [batch, positions, width] = states.shape as [number, number, number];
    const before = new Float32Array(batch * (positions - 1) * width);
    for (let b = 0; b < batch; b++) {
      const from = b * positions * width;
      before.set(states.data.subarray(from, from + (positions - 1) * width), b * (positions - 1) * width);
    }
    const outputs = await session.run({
      embedding: golden('embedding'),
      origin: golden('origin'),
      before: float32([batch, positions - 1, width], before),
      states,
      ...Object.fromEntries([...parameters.keys()].map((key) => [key, golden(`${name}|parameter|${key}`)])),
    });
    await session.dispose();
    for (const output of ['predicted', 'errors', 'loss']) {
      expect(outputs[output]!.data).toBeAllClose(golden(`${name}|${output}`).data, tolerance);
    }
    for (const key of parameters.keys()) {
      expect(outputs[gradientOutput(key)]!.data).toBeAllClose(
        golden(`${name}|gradient|${key}`).data,
        tolerance,
      );
    }
  });

  it('makes the reference’s states alone, position after position', async () => {
    const weights = {
      label: 'goldens',
      get: (key: string) => goldens.tensors.get(`${name}|parameter|${key}`),
    };
    const embedding = golden('embedding');
    const session = await defaultRuntime().load(
      buildApplication(plan(), weights, embedding.shape[0]!).graph,
      'once',
    );
    const { states } = await session.run({ embedding, origin: golden('origin') });
    await session.dispose();
    expect(states!.data).toBeAllClose(golden(`${name}|alone`).data, tolerance);
  });

  it('reads its own states from a position on, and those that are given before it', async () => {
    const alone = golden(`${name}|alone`);
    const [batch, positions, width] = alone.shape as [number, number, number];
    const rows = positions - 1;
    const session = await defaultRuntime().load(buildOwnStates(plan(), batch), 'training');
    const fixed = Object.fromEntries(
      [...goldens.tensors.keys()]
        .filter((key) => key.startsWith(`${name}|parameter|`))
        .map((key) => [key.slice(`${name}|parameter|`.length), golden(key)]),
    );
    /** What is read where the first states are given: its own, but the last of them a little off. */
    const read = async (first: number): Promise<Float32Array> => {
      const own = float32([batch, rows, 1]);
      const given = float32([batch, rows, width]);
      for (let b = 0; b < batch; b++) {
        own.data.fill(1, b * rows + first, (b + 1) * rows);
        const states = alone.data.subarray(b * positions * width, (b * positions + first) * width);
        given.data.set(states, b * rows * width);
        for (let i = Math.max(0, first - 1) * width; i < first * width; i++)
          given.data[b * rows * width + i]! += OFF(i);
      }
      const feeds = { ...fixed, embedding: golden('embedding'), origin: golden('origin'), own, given };
      return (await session.run(feeds)).before!.data as Float32Array;
    };
    const row = (data: Float32Array, i: number) => data.slice(i * width, (i + 1) * width);
    const whole = await read(0);
    for (let i = 0; i < rows; i++) expect(row(whole, i)).toBeAllClose(row(alone.data, i), tolerance);
    const mixed = await read(2);
    expect(row(mixed, 0)).toBeAllClose(row(alone.data, 0), tolerance);
    expect(row(mixed, 1)).toBeAllClose(
      row(alone.data, 1).map((value, i) => value + OFF(i)),
      tolerance,
    );
    // What follows is made from what was given.
    expect(row(mixed, 2)).not.toBeAllClose(row(alone.data, 2), tolerance);
    await session.dispose();
  });
});
