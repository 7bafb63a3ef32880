/** A UNet without a middle block, as BK-SDM's small ones: numbers of diffusers, for weights that follow from their names. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { SDXL_UNET } from '../../src/models/families/sdxl-configs.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { unetParameters } from '../../src/models/unet/parameter-names.ts';
import { attentionPlaces } from '../../src/models/unet/structure.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { namedWeights } from '../support/named-weights.ts';

const golden = JSON.parse(
  readFileSync(path.join(packageRoot(), 'fixtures/cases/unet/without-middle.json'), 'utf8'),
) as { config: object; noise_pred: number[] };
const config = unetSchema.parse(golden.config);

it('predicts what diffusers predicts', async () => {
  expect(attentionPlaces(config).map(({ path }) => path)).toEqual([
    'down_blocks.0.attentions.0.transformer_blocks.0',
    'up_blocks.1.attentions.0.transformer_blocks.0',
    'up_blocks.1.attentions.1.transformer_blocks.0',
  ]);
  const size = { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 5 };
  const { graph } = buildUnet(namedWeights, config, size, { layerwiseContext: false });
  const session = await defaultRuntime().load(graph, 'once');
  try {
    const { noise_pred: out } = await session.run({
      sample: float32([1, 4, 8, 8], new TorchGenerator(3).randn(256)),
      timestep: float32([1], [500]),
      encoder_hidden_states: float32([1, 5, 6], new TorchGenerator(2).randn(30)),
    });
    expect(out!.data as Float32Array).toBeAllClose(Float32Array.from(golden.noise_pred), {
      rtol: 1e-4,
      atol: 1e-5,
    });
  } finally {
    await session.dispose();
  }
});

describe('the parameters of a UNet', () => {
  // Nothing reads its numbers: the graph is only written.
  const one = float32Tensor('one', [1], Float32Array.of(1));
  // The graph has no inputs yet for what SDXL adds to the timestep.
  const { addedInputs: _, ...sdxl } = SDXL_UNET;

  it.each([
    ['without a middle', config],
    ['of SD 1.5', SD15_UNET],
    ['of SDXL', sdxl],
  ])('%s are those that its graph reads', (_, own) => {
    const read = new Set<string>();
    const source = {
      label: 'names',
      get: (name: string, shape?: readonly number[]) => {
        if (shape === undefined) return undefined;
        read.add(name);
        return { ...one, shape };
      },
    };
    buildUnet(source, own, { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 2 });
    expect([...unetParameters(own)].sort()).toEqual([...read].sort());
  });
});
