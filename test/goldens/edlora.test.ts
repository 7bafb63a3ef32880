/** A merged ED-LoRA: its text features, one UNet pass, and a whole picture against the published Mix-of-Show code. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { plainLayout } from '../../src/models/unet/region-attention.ts';
import { levelSizes } from '../../src/models/unet/structure.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { PromptEncoder } from '../../src/sampling/prompt-encoder.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { UnetDenoiser } from '../../src/sampling/unet-denoiser.ts';
import { mergedEdlora } from '../support/golden-edlora.ts';
import { GoldenTensors } from '../support/golden-tensors.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens/tiny-random';
const golden = goldenJson<{
  alpha: number;
  prompt: string;
  negative_prompt: string;
  e2e: { steps: number; guidance: number; seed: number };
}>(FOLDER, 'edlora_golden.json');
/** README of the goldens: 2e-5 + 2e-5·|x|. */
const TOLERANCE = { rtol: 2e-5, atol: 2e-5 };

describe('merged ED-LoRA', () => {
  let merged: Awaited<ReturnType<typeof mergedEdlora>>;
  let tensors: GoldenTensors;
  let pipeline: Pipeline;
  beforeAll(async () => {
    merged = await mergedEdlora(golden.alpha);
    tensors = await GoldenTensors.open(FOLDER, 'edlora_golden.safetensors');
    pipeline = await Pipeline.create(merged.base, merged);
  });
  afterAll(() => pipeline.dispose());

  it('encodes the prompt for every layer, and predicts with it', async () => {
    const { base, vocabulary, deltas } = merged;
    const layers = vocabulary.layerCount;
    const encoder = new PromptEncoder(base, vocabulary, deltas, 0);
    const everywhere = (text: string): string[] => Array<string>(layers).fill(text);
    const [contexts] = await encoder.encode([
      [everywhere(golden.negative_prompt), everywhere(golden.prompt)],
    ]);
    const [negative, positive] = contexts!.map(({ context }) => context);
    expect(positive!.data).toBeAllClose(tensors.values('ctx_positive'), TOLERANCE);
    const size = negative!.data.length / layers;
    for (let layer = 0; layer < layers; layer++) {
      const own = negative!.data.subarray(layer * size, (layer + 1) * size);
      expect(own).toBeAllClose(tensors.values('ctx_negative'), TOLERANCE);
    }

    const sample = tensors.tensor('sample');
    const [, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const levels = levelSizes(base.parts.unet.config, latentHeight, latentWidth);
    const layout = plainLayout(
      positive!.shape[2]!,
      levels.map(({ height, width }) => height * width),
    );
    const unet = new UnetDenoiser(base, deltas);
    const rows = new GuidedRows(1, { scale: 2 });
    const size_ = { rows: rows.count, latentHeight, latentWidth };
    await unet.load({ ...size_, layout, adapterFeatures: false, controlResiduals: false });
    const feeds = await unet.keysValues([contexts!], rows);
    const output = await unet.predict({
      ...feeds,
      sample,
      timestep: rows.filled(tensors.values('timestep')[0]!),
    });
    await unet.dispose();
    expect(output).toBeAllClose(tensors.values('out'), { rtol: 2e-5, atol: 5e-5 });
  });

  it('draws the same picture', async () => {
    const file = await openTensorFile(goldenPath(FOLDER, 'edlora_golden.safetensors'));
    const image = file.tensors.get('e2e_image_uint8')!;
    const [, height, width] = image.shape as [number, number, number];
    const previews: number[] = [];
    const [drawn] = await pipeline.sample(
      {
        prompt: golden.prompt,
        negativePrompt: golden.negative_prompt,
        width,
        height,
        steps: golden.e2e.steps,
        guidanceScale: golden.e2e.guidance,
        seed: golden.e2e.seed,
      },
      { onStep: ({ step }) => void previews.push(step) },
    );
    expect(previews).toEqual(Array.from({ length: golden.e2e.steps }, (_, i) => i + 1));
    const trajectory = tensors.tensor('e2e_latents_trajectory');
    const last = trajectory.data.subarray(-drawn!.latents.data.length);
    expect(drawn!.latents.data).toBeAllClose(last, { rtol: 0, atol: 2e-3 });
    expect(drawn!.data).toBeAllClose(readBytes(image), { rtol: 0, atol: 1 });
  });
});
