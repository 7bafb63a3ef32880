/**
 * A full-size Stable Diffusion 1.5 with random weights, as a diffusers folder: for measuring time and memory where
 * no trained model can be shipped. Generated once into a cache outside the repository.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { computedTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { writeFileAtomically } from '../../src/io/replace-file.ts';
import { buildTextEncoder } from '../../src/models/clip/text-encoder.ts';
import {
  CLIP_VIT_L_TEXT,
  SD15_SCHEDULER,
  SD15_UNET,
  SD15_VAE,
} from '../../src/models/families/sd1-configs.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { buildVaeDecoder } from '../../src/models/vae/decoder.ts';
import { buildVaeEncoder } from '../../src/models/vae/encoder.ts';
import { defaultBase } from '../../src/package-root.ts';

type Width = 'F32' | 'F16';

/** Where generated models lie: EDLORA_CACHE, or `~/.cache/edlora`. */
export function benchCache(): string {
  return process.env.EDLORA_CACHE ?? path.join(homedir(), '.cache', 'edlora');
}

/** Uniform numbers of variance 1/fan-in, ones for norms, zeros for biases: activations stay of order one. */
function randomWeight(name: string, shape: readonly number[], dtype: Width): RawTensor {
  return computedTensor(name, dtype, shape, () => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    if (shape.length === 1) return encodeFloat(values.fill(name.endsWith('.weight') ? 1 : 0), dtype);
    const fanIn = values.length / shape[0]!;
    const scale = Math.sqrt(3 / fanIn) / 2 ** 31;
    let state = [...name].reduce((hash, char) => (Math.imul(hash, 31) + char.charCodeAt(0)) | 0, 7) | 1;
    for (let i = 0; i < values.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      values[i] = state * scale;
    }
    return encodeFloat(values, dtype);
  });
}

/** The parameters a network asks for while it is written. */
function parametersOf(
  write: (get: (name: string, shape?: readonly number[]) => RawTensor) => void,
  dtype: Width,
): RawTensor[] {
  const parameters = new Map<string, RawTensor>();
  write((name, shape) => {
    let tensor = parameters.get(name);
    if (tensor === undefined) {
      if (shape === undefined) throw new Error(`internal: ${name} was asked for without a shape`);
      // Stored as 1×1 convolutions in SD 1.x; the graph takes them as matrices.
      const stored = /\.attentions\.\d+\.proj_(in|out)\.weight$/.test(name) ? [...shape, 1, 1] : shape;
      tensor = randomWeight(name, stored, dtype);
      parameters.set(name, tensor);
    }
    return tensor;
  });
  return [...parameters.values()];
}

/**
 * The folder of the generated model; made on the first call (3.9 GB as F32, about half a minute).
 * The tokenizer is the miniature's, with as many token embeddings.
 */
export async function ensureRandomModel(dtype: Width = 'F32'): Promise<string> {
  const folder = path.join(benchCache(), `random-sd15-${dtype.toLowerCase()}-v2`);
  if (existsSync(path.join(folder, 'model_index.json'))) return folder;
  process.stderr.write(`generating a random SD 1.5 (${dtype}) in ${folder} …\n`);
  const draft = `${folder}.tmp`;
  await rm(draft, { recursive: true, force: true });
  const size = { batch: 1, latentHeight: 64, latentWidth: 64, tokens: 77 };
  const source = (get: (name: string, shape?: readonly number[]) => RawTensor) => ({ label: 'random', get });
  const vocabSize = 826;
  const embeddings = 'text_model.embeddings';
  const parts: Record<string, { stem: string; tensors: RawTensor[]; config: object }> = {
    unet: {
      stem: 'diffusion_pytorch_model',
      tensors: parametersOf((get) => buildUnet(source(get), SD15_UNET, size), dtype),
      config: {
        _class_name: 'UNet2DConditionModel',
        act_fn: 'silu',
        attention_head_dim: 8,
        block_out_channels: SD15_UNET.blocks.map((block) => block.channels),
        cross_attention_dim: SD15_UNET.crossAttentionDim,
        down_block_types: SD15_UNET.blocks.map((block) =>
          block.crossAttention ? 'CrossAttnDownBlock2D' : 'DownBlock2D',
        ),
        up_block_types: SD15_UNET.blocks
          .toReversed()
          .map((block) => (block.crossAttention ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
        in_channels: 4,
        out_channels: 4,
        layers_per_block: 2,
        norm_num_groups: 32,
        sample_size: 64,
      },
    },
    text_encoder: {
      stem: 'model',
      tensors: parametersOf((get) => {
        get(`${embeddings}.token_embedding.weight`, [vocabSize, 768]);
        get(`${embeddings}.position_embedding.weight`, [77, 768]);
        buildTextEncoder(source(get), CLIP_VIT_L_TEXT, { batch: 1, tokens: 77 });
      }, dtype),
      config: {
        architectures: ['CLIPTextModel'],
        model_type: 'clip_text_model',
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        max_position_embeddings: 77,
        hidden_act: 'quick_gelu',
        vocab_size: vocabSize,
        projection_dim: 768,
        bos_token_id: vocabSize - 2,
        eos_token_id: vocabSize - 1,
        pad_token_id: vocabSize - 1,
      },
    },
    vae: {
      stem: 'diffusion_pytorch_model',
      tensors: parametersOf((get) => {
        buildVaeEncoder(source(get), SD15_VAE, { batch: 1, imageHeight: 64, imageWidth: 64 });
        buildVaeDecoder(source(get), SD15_VAE, { batch: 1, latentHeight: 8, latentWidth: 8 });
      }, dtype),
      config: {
        _class_name: 'AutoencoderKL',
        block_out_channels: SD15_VAE.blockChannels,
        down_block_types: SD15_VAE.blockChannels.map(() => 'DownEncoderBlock2D'),
        up_block_types: SD15_VAE.blockChannels.map(() => 'UpDecoderBlock2D'),
        latent_channels: 4,
        layers_per_block: 2,
        norm_num_groups: 32,
        scaling_factor: 0.18215,
        sample_size: 512,
      },
    },
  };
  for (const [part, { stem, tensors, config }] of Object.entries(parts)) {
    await mkdir(path.join(draft, part), { recursive: true });
    await writeFileAtomically(path.join(draft, part, 'config.json'), [JSON.stringify(config, null, 2)]);
    await writeSafetensors(path.join(draft, part, `${stem}.safetensors`), tensors, { format: 'pt' });
  }
  await cp(path.join(defaultBase(), 'tokenizer'), path.join(draft, 'tokenizer'), { recursive: true });
  await mkdir(path.join(draft, 'scheduler'));
  await writeFileAtomically(path.join(draft, 'scheduler', 'scheduler_config.json'), [
    JSON.stringify(SD15_SCHEDULER, null, 2),
  ]);
  await cp(path.join(defaultBase(), 'model_index.json'), path.join(draft, 'model_index.json'));
  await rename(draft, folder);
  return folder;
}
