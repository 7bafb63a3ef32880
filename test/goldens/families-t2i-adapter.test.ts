/** SDXL's T2I-Adapter against diffusers: its features, the UNet with them, a picture; and whose adapter fits which base. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkAdapterFits, openT2iAdapter } from '../../src/models/adapter/open.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { featureShapes } from '../../src/models/unet/adapter-features.ts';
import { adapterInput, buildUnet } from '../../src/models/unet/unet.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { adapterFeatures } from '../../src/sampling/guides.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { TOLERANCE } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';
import { goldenPath } from '../support/goldens.ts';

// Not in every set of goldens.
const shipped = (name: string) => path.join(packageRoot(), 'fixtures/goldens-families/sdxl', name);
const base = await openCheckpoint(shipped('model'));
const adapter = await openT2iAdapter(shipped('t2i_adapter'));
const golden = await Golden.open(shipped('t2i_adapter.safetensors'));
const [, , height, width] = golden.tensor('image').shape as [number, number, number, number];
const planes = golden.values('image');
const picture = {
  width,
  height,
  data: Uint8Array.from(
    { length: planes.length },
    (_, i) => planes[(i % 3) * height * width + Math.floor(i / 3)]!,
  ),
};

describe('an adapter of SDXL', () => {
  it('gives the features of diffusers', async () => {
    const features = await adapterFeatures(adapter, picture);
    expect(features.map(({ shape: [, channels, height, width] }) => ({ channels, height, width }))).toEqual(
      featureShapes(base.parts.unet.config, height / 8, width / 8),
    );
    features.forEach(({ data }, i) => {
      expect(data).toBeAllClose(golden.values(`feature_${i}`), TOLERANCE);
    });
  });

  it('guides the UNet behind downsampling, in blocks and behind the middle', async () => {
    const { weights, config } = base.parts.unet;
    const size = { batch: 2, latentHeight: height / 8, latentWidth: width / 8, tokens: 77 };
    const { graph } = buildUnet(weights, config, size, { layerwiseContext: false, adapterFeatures: true });
    const session = await defaultRuntime().load(graph, 'once');
    const features = [0, 1, 2, 3].map((i) => [adapterInput(i), golden.tensor(`feature_${i}`)] as const);
    const outputs = await session.run({
      sample: golden.tensor('sample'),
      timestep: float32([2], [400, 400]),
      encoder_hidden_states: golden.tensor('context'),
      text_embeds: golden.tensor('pooled'),
      time_ids: golden.tensor('time_ids'),
      ...Object.fromEntries(features),
    });
    await session.dispose();
    expect(outputs.noise_pred!.data).toBeAllClose(golden.values('noise_pred'), TOLERANCE);
  });

  it('changes a picture by its strength', async () => {
    const pipeline = await Pipeline.create(base);
    const drawn = async (strength: number) => {
      const request = {
        prompt: 'a cat',
        width,
        height,
        steps: 1,
        adapters: [{ adapter, picture, strength }],
      };
      return (await pipeline.sample(request))[0]!.latents.data;
    };
    const [none, whole] = [await drawn(0), await drawn(1)];
    const [plain] = await pipeline.sample({ prompt: 'a cat', width, height, steps: 1 });
    await pipeline.dispose();
    expect(none).toBeAllClose(plain!.latents.data, { rtol: 0, atol: 1e-5 });
    expect(whole).not.toEqual(none);
  });

  it('fits no base of another kind, and no other adapter fits SDXL', async () => {
    const other = await openT2iAdapter(goldenPath('goldens/tiny-random/t2i_adapter'));
    expect(() => checkAdapterFits(adapter, base, 8)).not.toThrow();
    expect(() => checkAdapterFits(other, base, 8)).toThrow(
      /expected a full_adapter_xl .*, got a full_adapter;/,
    );
    const old = await openCheckpoint(defaultBase());
    expect(() => checkAdapterFits(adapter, old, 8)).toThrow(
      /expected a full_adapter .*, got a full_adapter_xl;/,
    );
    const wide = { ...adapter, config: { ...adapter.config, downscaleFactor: 8 } };
    expect(() => checkAdapterFits(wide, base, 8)).toThrow(/expected an adapter of factor 16 .*, got 8/);
  });
});
