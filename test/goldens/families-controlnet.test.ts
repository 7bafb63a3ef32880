/** ControlNets of SDXL and SD 2.x against diffusers: residuals, the UNet with them, and a whole run of the pipeline. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildConditionEmbedding, buildControlNet } from '../../src/models/controlnet/controlnet.ts';
import { type ControlNet, openControlNet } from '../../src/models/controlnet/open.ts';
import type { Network } from '../../src/models/network.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { TOLERANCE } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';

interface Request {
  prompt: string;
  negative_prompt: string;
  num_inference_steps: number;
  guidance_scale: number;
  conditioning_scale: number;
  seed: number;
  scheduler_class: keyof typeof SAMPLERS;
}
const SAMPLERS = { DDIMScheduler: 'ddim', EulerDiscreteScheduler: 'euler' } as const;

async function run({ graph }: Network, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await defaultRuntime().load(graph, 'once');
  try {
    return await session.run(feeds);
  } finally {
    await session.dispose();
  }
}

/** [B, T, D] → [B, L, T, D]: every cross-attention reads the same. */
function everywhere({ shape, data }: Tensor<Float32Array>, layers: number): Tensor {
  const [batch, tokens, width] = shape as [number, number, number];
  const all = float32([batch, layers, tokens, width]);
  for (let i = 0; i < batch * layers; i++) {
    const row = Math.floor(i / layers);
    all.data.set(data.subarray(row * tokens * width, (row + 1) * tokens * width), i * tokens * width);
  }
  return all;
}

describe.each(['sdxl', 'sd2'])('a ControlNet of %s', (family) => {
  // Not in every set of goldens.
  const shipped = (name: string) => path.join(packageRoot(), 'fixtures/goldens-families', family, name);
  const request = JSON.parse(readFileSync(shipped('controlnet.json'), 'utf8')) as Request;
  let base: Checkpoint;
  let controlNet: ControlNet;
  let golden: Golden;
  beforeAll(async () => {
    base = await openCheckpoint(shipped('model'));
    controlNet = await openControlNet(shipped('controlnet'));
    golden = await Golden.open(shipped('controlnet.safetensors'));
  });

  it('gives the residuals of diffusers, and guides the UNet', async () => {
    const image = golden.tensor('image');
    const [, , imageHeight, imageWidth] = image.shape as [number, number, number, number];
    const shares = float32(
      image.shape,
      image.data.map((level) => level / 255),
    );
    const embedding = buildConditionEmbedding(controlNet.weights, controlNet.config, {
      imageHeight,
      imageWidth,
    });
    const { condition } = await run(embedding, { image: shares });
    const sample = golden.tensor('sample');
    const context = golden.tensor('context');
    const [batch, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const size = { batch, latentHeight, latentWidth, tokens: context.shape[1]! };
    const common = {
      sample,
      timestep: float32([batch], Array<number>(batch).fill(400)),
      encoder_hidden_states: context,
      ...(golden.has('pooled')
        ? { text_embeds: golden.tensor('pooled'), time_ids: golden.tensor('time_ids') }
        : {}),
    };
    const residuals = await run(buildControlNet(controlNet.weights, controlNet.config, size), {
      ...common,
      encoder_hidden_states: everywhere(context, base.parts.layers.contextCount),
      condition: condition!,
    });
    const scaled = Object.fromEntries(
      Object.entries(residuals).map(([name, { shape, data }]) => [
        name,
        float32(
          shape,
          (data as Float32Array).map((value) => value * request.conditioning_scale),
        ),
      ]),
    );
    const downs = golden.cases(/^down_(\d+)$/);
    expect(Object.keys(scaled)).toHaveLength(downs.length + 1);
    expect(scaled['control.mid']!.data).toBeAllClose(golden.values('mid'), TOLERANCE);
    for (const [name, index] of downs) {
      expect(scaled[`control.down.${index}`]!.data, name).toBeAllClose(golden.values(name), TOLERANCE);
    }
    const { weights, config } = base.parts.unet;
    const unet = buildUnet(weights, config, size, { layerwiseContext: false, controlResiduals: true });
    const { noise_pred } = await run(unet, { ...common, ...scaled });
    expect(noise_pred!.data).toBeAllClose(golden.values('noise_pred'), TOLERANCE);
  });

  it('draws what the pipeline draws', async () => {
    const image = golden.tensor('image');
    const [, , height, width] = image.shape as [number, number, number, number];
    const plane = height * width;
    const data = Uint8Array.from(
      { length: 3 * plane },
      (_, i) => image.data[(i % 3) * plane + Math.floor(i / 3)]!,
    );
    const pipeline = await Pipeline.create(base);
    const [picture] = await pipeline
      .sample({
        prompt: request.prompt,
        negativePrompt: request.negative_prompt,
        width,
        height,
        steps: request.num_inference_steps,
        guidanceScale: request.guidance_scale,
        seed: request.seed,
        sampler: SAMPLERS[request.scheduler_class],
        controls: [{ controlNet, picture: { width, height, data }, strength: request.conditioning_scale }],
      })
      .finally(() => pipeline.dispose());
    // As whole runs without a ControlNet: values of order ten.
    expect(picture!.latents.data).toBeAllClose(golden.values('latents'), { rtol: 0, atol: 1e-3 });
  });
});
