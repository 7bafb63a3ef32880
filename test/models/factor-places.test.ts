/** Factors under soft masks against a plain restatement in PyTorch (fixtures/region-concepts). */
import path from 'node:path';
import { expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { lowRank, rankOf } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { deltaFeeds, deltaRanks, sumDeltas } from '../../src/models/lora.ts';
import { masksInput } from '../../src/models/unet/factor-places.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';

const FILE = path.join(packageRoot(), 'fixtures/region-concepts/region_concepts.safetensors');

it('two concepts under soft masks predict what PyTorch predicts', async () => {
  const { tensors } = await openTensorFile(FILE);
  const tensor = (name: string): Tensor<Float32Array> => {
    const raw = tensors.get(name)!;
    return float32(raw.shape, readFloat32(raw));
  };
  const factor = (name: string) => {
    const { shape, data } = tensor(name);
    return matrix(shape[0]!, shape[1]!, Float64Array.from(data));
  };
  const concepts = [0, 1].map((concept) => {
    const suffix = `.${concept}.down`;
    const names = [...tensors.keys()].flatMap((name) =>
      name.endsWith(suffix) ? [name.slice(0, -suffix.length)] : [],
    );
    return new Map(
      names.map((name) => [
        name,
        lowRank(factor(`${name}.${concept}.up`), factor(`${name}.${concept}.down`)),
      ]),
    );
  });
  expect(concepts[0]!.size).toBeGreaterThan(100);
  const deltas = sumDeltas(concepts);
  const columns = new Map(
    [...deltas.keys()].map((name) => [
      name,
      concepts.flatMap((own, i) => Array<number>(rankOf(own.get(name)!)).fill(1 + i)),
    ]),
  );
  const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  const { weights, config, layers } = base.parts.unet;
  const sample = tensor('sample');
  const context = tensor('context');
  const [, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
  const size = { batch: 1, latentHeight, latentWidth, tokens: context.shape[1]! };
  const loraRanks = deltaRanks(deltas);
  const places = { masks: 3, columns };
  const { graph } = buildUnet(weights, config, size, { layerwiseContext: false, loraRanks, places });
  const masks = [0, 1, 2, 3].map((level) => {
    const { shape, data } = tensor(`mask.${level}`);
    const rows = shape[1]! * shape[2]!;
    const values = Array.from({ length: rows }, (_, n) => [1, data[n]!, data[rows + n]!]).flat();
    return [masksInput(level), float32([1, rows, 3], values)] as const;
  });
  const session = await defaultRuntime().load(graph, 'once');
  const { noise_pred } = await session.run({
    sample,
    timestep: tensor('timestep'),
    encoder_hidden_states: context,
    ...deltaFeeds(deltas, loraRanks, layers),
    ...Object.fromEntries(masks),
  });
  await session.dispose();
  expect(noise_pred!.data as Float32Array).toBeAllClose(tensor('noise_pred').data, { rtol: 1e-4 });
});
