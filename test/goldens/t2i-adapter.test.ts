/** T2I-Adapter features, and the UNet with them, against diffusers. */
import { describe, expect, it } from 'vitest';
import { openT2iAdapter } from '../../src/models/adapter/open.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { plainLayout } from '../../src/models/unet/region-attention.ts';
import { levelSizes } from '../../src/models/unet/structure.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { adapterFeatures } from '../../src/sampling/guides.ts';
import { UnetDenoiser } from '../../src/sampling/unet-denoiser.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { GoldenTensors } from '../support/golden-tensors.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens/tiny-random';
const TOLERANCE = { rtol: 2e-5, atol: 2e-5 };
const golden = await GoldenTensors.open(FOLDER, 't2i_adapter_golden.safetensors');
const cases = golden.names
  .map((name) => /^(.*)\/image_uint8$/.exec(name)?.[1])
  .filter((name) => name !== undefined);

describe.each(cases)('%s', (name) => {
  it('gives the features of diffusers', async () => {
    const adapter = await openT2iAdapter(goldenPath(FOLDER, 't2i_adapter'));
    const { shape, data } = golden.tensor(`${name}/image_uint8`);
    const [, channels, height, width] = shape as [number, number, number, number];
    const pixels = new Uint8Array(data.length);
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < height * width; i++) pixels[i * channels + c] = data[c * height * width + i]!;
    }
    const features = await adapterFeatures(adapter, { width, height, data: pixels });
    expect(features.length).toBe(adapter.config.channels.length);
    features.forEach(({ data: values }, i) => {
      expect(values).toBeAllClose(golden.values(`${name}/feature_${i}`), TOLERANCE);
    });
  });

  it('guides the UNet', async () => {
    const base = await openCheckpoint(goldenPath(FOLDER, 'model'));
    const texts = await GoldenTensors.open(FOLDER, 'unet_region.safetensors');
    const positive = texts.tensor('ctx_positive');
    const negative = texts.tensor('ctx_negative');
    const everywhere = float32(
      positive.shape,
      Float32Array.from(positive.data, (_, i) => negative.data[i % negative.data.length]!),
    );
    const sample = golden.tensor(`${name}/sample`);
    const [, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const positions = levelSizes(base.parts.unet.config, latentHeight, latentWidth).map(
      (size) => size.height * size.width,
    );
    const layout = plainLayout(positive.shape[1]!, positions);
    const unet = new UnetDenoiser(base, new Map());
    const rows = new GuidedRows(1, { scale: 2 });
    const size = { rows: rows.count, latentHeight, latentWidth };
    await unet.load({ ...size, layout, adapterFeatures: true, controlResiduals: false });
    const keysValues = await unet.keysValues(
      [[everywhere, positive].map(({ shape, data }) => ({ context: float32([1, ...shape], data) }))],
      rows,
    );
    const outputs = golden.names.flatMap((full) => {
      const found =
        full.startsWith(`${name}/`) && /^unet_out(?:_scale_(.+))?$/.exec(full.slice(name.length + 1));
      return found ? [[found[0], Number(found[1] ?? 1)] as const] : [];
    });
    expect(outputs.length).toBeGreaterThan(0);
    for (const [output, strength] of outputs) {
      const features = base.parts.unet.config.blocks.map((_, i) => {
        const { shape, data } = golden.tensor(`${name}/feature_${i}`);
        return [
          `adapter.${i}`,
          float32(
            shape,
            data.map((value) => value * strength),
          ),
        ] as const;
      });
      const timestep = golden.values('timestep')[0]!;
      const predicted = await unet.predict({
        ...keysValues,
        ...Object.fromEntries(features),
        sample,
        timestep: rows.filled(timestep),
      });
      expect(predicted).toBeAllClose(golden.values(`${name}/${output}`), { rtol: 2e-5, atol: 5e-5 });
    }
    await unet.dispose();
  });
});
