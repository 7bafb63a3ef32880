/** Whole pictures of SDXL and SD 2.x against diffusers' pipelines: samplers, sizes, no prompt, picture to picture, words, LoRA. */
import { cpSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { readScheduleKeys } from '../../src/models/model-schedule.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { bytesOf, familyJson, GOLDEN_FAMILIES } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';
import { familiesPath } from '../support/goldens.ts';
import { scratch } from '../support/scratch.ts';

type Pair = [number, number];
interface Case {
  scheduler_class: string;
  scheduler_config: string;
  scheduler_overrides?: Record<string, unknown>;
  seed: number | number[];
  prompt: string | string[];
  prompt_2?: string;
  negative_prompt: string | string[] | null;
  negative_prompt_2?: string;
  guidance_scale: number;
  guidance_rescale?: number;
  num_inference_steps: number;
  strength?: number;
  original_size?: Pair;
  crops_coords_top_left?: Pair;
  target_size?: Pair;
  negative_original_size?: Pair;
  negative_crops_coords_top_left?: Pair;
  negative_target_size?: Pair;
}
interface Index {
  height: number;
  width: number;
  cases: Record<string, Case>;
  embedding: { token: string };
}

const NAMES: Record<string, string> = {
  DDIMScheduler: 'ddim',
  DPMSolverMultistepScheduler: 'dpmpp-2m',
  EulerDiscreteScheduler: 'euler',
  PNDMScheduler: 'pndm',
};
/** Values of order ten after a run; float32 against float64 differs by up to 8.6e-5. */
const LATENTS = { rtol: 0, atol: 1e-3 };

const size = ([height, width]: Pair) => ({ width, height });
const corner = ([top, left]: Pair) => ({ left, top });

describe.each(GOLDEN_FAMILIES)('%s', (family) => {
  let folder: Checkpoint;
  let golden: Golden;
  beforeAll(async () => {
    folder = await openCheckpoint(familiesPath(family, 'model'));
    golden = await Golden.open(familiesPath(family, 'end_to_end.safetensors'));
  });
  const index = familyJson<Index>(family, 'end_to_end.json');
  const pipelines = new Map<string, Pipeline>();
  afterAll(async () => {
    for (const pipeline of pipelines.values()) await pipeline.dispose();
  });

  /** What a case draws with: the words or the LoRA that it is named for. */
  async function modelOf(name: string): Promise<{ base: Checkpoint } & PipelineParts> {
    const location = familiesPath(family, 'model');
    const files = (kind: string) => readdirSync(familiesPath(family, kind)).sort();
    const word = name.startsWith('embedding_');
    const lora = name.startsWith('lora_')
      ? files('lora').find((file) => file.endsWith('.safetensors'))!
      : null;
    if (!word && lora === null) return { base: folder };
    const strengths = { unetStrength: 1, textEncoderStrength: 1 };
    const { concepts, ...model } = await openSceneModel({
      base: location,
      concepts: [],
      loras: lora === null ? [] : [{ path: familiesPath(family, 'lora', lora), ...strengths }],
      embeddings: word ? [called(index.embedding.token, files('embedding')[0]!)] : [],
    });
    return { ...model, placedDeltas: concepts.map(({ deltas }) => deltas) };
  }

  /** The file by the word that the prompts have: SDXL's files hold no name. */
  function called(word: string, file: string): string {
    const copy = scratch(`${word}${path.extname(file)}`);
    cpSync(familiesPath(family, 'embedding', file), copy);
    return copy;
  }

  async function pipelineOf(name: string, golden_: Case): Promise<Pipeline> {
    const { scheduler_config: scheduler, scheduler_overrides: overrides = {} } = golden_;
    const own = /^(embedding|lora)_/.test(name) ? name : '';
    const key = JSON.stringify([own, scheduler, overrides]);
    const known = pipelines.get(key);
    if (known !== undefined) return known;
    const { base, ...parts } = await modelOf(name);
    const file = familiesPath(family, scheduler, 'scheduler_config.json');
    const config = { ...(await readScheduleKeys(file)), ...overrides };
    const pipeline = await Pipeline.create({ ...base, schedule: { config, file } }, parts);
    pipelines.set(key, pipeline);
    return pipeline;
  }

  /** Lists of prompts are one request each. */
  function requestsOf(name: string, golden_: Case, prompts: readonly string[]): SampleRequest[] {
    const { original_size: original, crops_coords_top_left: crop } = golden_;
    const [, height, width] = golden.raw(`${name}/image_uint8`).shape as [number, number, number];
    const picture = { width, height, data: bytesOf(golden, 'img2img_input_uint8') };
    const { strength } = familyJson<{ strength: number }>(family, 'lora_golden.json');
    const lora = { concept: 0, unetStrength: strength, textEncoderStrength: strength };
    return prompts.map((prompt, i) => {
      const negative = golden_.negative_prompt === null ? undefined : [golden_.negative_prompt].flat()[i];
      return {
        prompt,
        width,
        height,
        ...(negative === undefined ? {} : { negativePrompt: negative }),
        ...(golden_.prompt_2 === undefined ? {} : { prompt2: golden_.prompt_2 }),
        ...(golden_.negative_prompt_2 === undefined ? {} : { negativePrompt2: golden_.negative_prompt_2 }),
        ...(golden_.target_size === undefined ? {} : { targetSize: size(golden_.target_size) }),
        ...(golden_.negative_target_size === undefined
          ? {}
          : {
              negativeSizes: {
                ...size(golden_.negative_target_size),
                originalSize: size(golden_.negative_original_size!),
                crop: corner(golden_.negative_crops_coords_top_left!),
              },
            }),
        ...(original === undefined ? {} : { originalSize: size(original) }),
        ...(crop === undefined ? {} : { crop: corner(crop) }),
        ...(golden_.strength === undefined ? {} : { init: { picture, denoise: golden_.strength } }),
        ...(name.startsWith('lora_') ? { concepts: [lora] } : {}),
        seed: [golden_.seed].flat()[i]!,
        steps: golden_.num_inference_steps,
        guidanceScale: golden_.guidance_scale,
        guidanceRescale: golden_.guidance_rescale ?? 0,
        sampler: NAMES[golden_.scheduler_class]!,
      };
    });
  }

  const drawn = Object.entries(index.cases).filter(
    // Beside a case where transformers pools an added word stands what it would be at the end of the text.
    ([name]) => !name.endsWith('_pooled_at_eos'),
  );
  it.each(drawn)('draws %s', async (name, golden_) => {
    const pipeline = await pipelineOf(name, golden_);
    const prompts = [golden_.prompt].flat();
    const pictures = [];
    for (const request of requestsOf(name, golden_, prompts))
      pictures.push(...(await pipeline.sample(request)));
    const latents = pictures.flatMap((picture) => [...picture.latents.data]);
    const all = golden.values(`${name}/latents`);
    expect(latents).toBeAllClose(all.subarray(all.length - latents.length), LATENTS);
    const image = Uint8Array.from(pictures.flatMap((picture) => [...picture.data]));
    expect(image).toBeAllClose(bytesOf(golden, `${name}/image_uint8`), { rtol: 0, atol: 1 });
  });

  it('draws one picture by its family’s own sampler and size', async () => {
    const pipeline = await pipelineOf('', { scheduler_config: 'model/scheduler' } as Case);
    const { sampler, width, height } = pipeline.resolve({ prompt: '' });
    expect(sampler).toBe(folder.family.base.sampler);
    expect([width, height]).toEqual(Array(2).fill(folder.parts.unet.config.sampleSize * pipeline.factor));
  });
});
