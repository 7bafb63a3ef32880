/** ControlNet residuals, and the UNet with them, against diffusers. */
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildConditionEmbedding, buildControlNet } from '../../src/models/controlnet/controlnet.ts';
import { openControlNet } from '../../src/models/controlnet/open.ts';
import type { Network } from '../../src/models/network.ts';
import { crossAttentionNames } from '../../src/models/unet/structure.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { GoldenTensors } from '../support/golden-tensors.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens/tiny-random';
const TOLERANCE = { rtol: 2e-5, atol: 2e-5 };
/** README of the goldens. */
const CONDITIONING_SCALE = 0.8;

async function run({ graph }: Network, feeds: Record<string, Tensor>) {
  const session = await defaultRuntime().load(graph, 'every-step');
  try {
    return await session.run(feeds);
  } finally {
    await session.dispose();
  }
}

describe('ControlNet', () => {
  it('gives the residuals of diffusers and guides the UNet', async () => {
    const golden = await GoldenTensors.open(FOLDER, 'controlnet_golden.safetensors');
    const base = await openCheckpoint(goldenPath(FOLDER, 'model'));
    const { weights, config } = await openControlNet(goldenPath(FOLDER, 'controlnet'));
    const image = golden.tensor('cond_image');
    const [, , imageHeight, imageWidth] = image.shape as [number, number, number, number];
    const embedding = buildConditionEmbedding(weights, config, { imageHeight, imageWidth });
    const { condition } = await run(embedding, { image });

    const ctx = golden.tensor('ctx');
    const [batch, tokens, width] = ctx.shape as [number, number, number];
    const one = golden.tensor('sample');
    const [, channels, latentHeight, latentWidth] = one.shape as [number, number, number, number];
    const sample = float32([batch, channels, latentHeight, latentWidth]);
    for (let b = 0; b < batch; b++) sample.data.set(one.data, b * one.data.length);
    const layers = crossAttentionNames(base.parts.unet.config).length;
    const perLayer = float32([batch, layers, tokens, width]);
    for (let b = 0; b < batch; b++) {
      const own = ctx.data.subarray(b * tokens * width, (b + 1) * tokens * width);
      for (let l = 0; l < layers; l++) perLayer.data.set(own, (b * layers + l) * own.length);
    }
    const timestep = float32([batch], Array<number>(batch).fill(golden.values('timestep')[0]!));
    const size = { batch, latentHeight, latentWidth, tokens };
    const feeds = { sample, timestep, encoder_hidden_states: perLayer };
    const residuals = await run(buildControlNet(weights, config, size), { ...feeds, condition: condition! });
    const scaled = Object.fromEntries(
      Object.entries(residuals).map(([name, { shape, data }]) => [
        name,
        float32(
          shape,
          (data as Float32Array).map((value) => value * CONDITIONING_SCALE),
        ),
      ]),
    );
    expect(scaled['control.mid']!.data).toBeAllClose(golden.values('mid'), TOLERANCE);
    const downs = golden.names.filter((name) => name.startsWith('down_'));
    expect(Object.keys(scaled).length).toBe(downs.length + 1);
    for (const name of downs) {
      // Stored are the first picture's channels 0, 4, 8 …
      const { data, shape } = scaled[`control.down.${Number(name.slice(5))}`]!;
      const plane = shape[2]! * shape[3]!;
      const kept = data.filter((_, i) => i < shape[1]! * plane && Math.floor(i / plane) % 4 === 0);
      expect(kept, name).toBeAllClose(golden.values(name), TOLERANCE);
    }
    const network = buildUnet(base.parts.unet.weights, base.parts.unet.config, size, {
      controlResiduals: true,
    });
    const { noise_pred } = await run(network, { ...feeds, ...scaled });
    expect(noise_pred!.data as Float32Array).toBeAllClose(golden.values('unet_out'), TOLERANCE);
  });
});
