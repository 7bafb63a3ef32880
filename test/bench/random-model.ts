/**
 * Full-size models with random weights, as diffusers folders: for measuring time and memory where no trained model can be
 * shipped. Generated once into a cache outside the repository. A family's own file says what it consists of.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { computedTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { writeFileAtomically } from '../../src/io/replace-file.ts';
import type { ClipTextConfig } from '../../src/models/clip/config.ts';
import { buildTextEncoder, TOKEN_TABLE } from '../../src/models/clip/text-encoder.ts';
import type { UnetConfig } from '../../src/models/unet/config.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import type { VaeConfig } from '../../src/models/vae/config.ts';
import { buildVaeDecoder } from '../../src/models/vae/decoder.ts';
import { buildVaeEncoder } from '../../src/models/vae/encoder.ts';
import { defaultBase } from '../../src/package-root.ts';

export type Width = 'F32' | 'F16';

/** A network of a model: its weights and what `config.json` says. */
export interface RandomPart {
  readonly stem: string;
  readonly tensors: readonly RawTensor[];
  readonly config: object;
}

export interface RandomModel {
  /** Begins the folder's name. */
  readonly name: string;
  /** As messages call it. */
  readonly title: string;
  readonly index: object;
  readonly scheduler: object;
  /** Folders of tokenizers; all get the miniature's. */
  readonly tokenizers: readonly string[];
  /** By folder. */
  readonly parts: Readonly<Record<string, RandomPart>>;
}

/** Words of the miniature's tokenizer, which the random models read prompts with. */
const VOCABULARY = 826;

/** Where generated models lie: EDLORA_CACHE, or `~/.cache/edlora`. */
export function benchCache(): string {
  return process.env.EDLORA_CACHE ?? path.join(homedir(), '.cache', 'edlora');
}

/** The folder of a generated model; made on the first call. */
export async function ensureRandom(dtype: Width, make: (dtype: Width) => RandomModel): Promise<string> {
  const model = make(dtype);
  const folder = path.join(benchCache(), `${model.name}-${dtype.toLowerCase()}-v2`);
  if (existsSync(path.join(folder, 'model_index.json'))) return folder;
  process.stderr.write(`generating a random ${model.title} (${dtype}) in ${folder} …\n`);
  const draft = `${folder}.tmp`;
  await rm(draft, { recursive: true, force: true });
  const json = (name: string, value: object) =>
    writeFileAtomically(path.join(draft, name), [JSON.stringify(value, null, 2)]);
  for (const [part, { stem, tensors, config }] of Object.entries(model.parts)) {
    await mkdir(path.join(draft, part), { recursive: true });
    await json(path.join(part, 'config.json'), config);
    await writeSafetensors(path.join(draft, part, `${stem}.safetensors`), tensors, { format: 'pt' });
  }
  for (const tokenizer of model.tokenizers) {
    await cp(path.join(defaultBase(), 'tokenizer'), path.join(draft, tokenizer), { recursive: true });
  }
  await mkdir(path.join(draft, 'scheduler'));
  await json(path.join('scheduler', 'scheduler_config.json'), model.scheduler);
  await json('model_index.json', model.index);
  await rename(draft, folder);
  return folder;
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

type Get = (name: string, shape?: readonly number[]) => RawTensor;
const source = (get: Get) => ({ label: 'random', get });

/**
 * The parameters a network asks for while it is written.
 * @param storedAs the shape that a file has of one, given the graph's. Default: the same
 */
function parametersOf(
  dtype: Width,
  write: (get: Get) => void,
  storedAs: (name: string, shape: readonly number[]) => readonly number[] = (_, shape) => shape,
): RawTensor[] {
  const parameters = new Map<string, RawTensor>();
  write((name, shape) => {
    let tensor = parameters.get(name);
    if (tensor === undefined) {
      if (shape === undefined) throw new Error(`internal: ${name} was asked for without a shape`);
      tensor = randomWeight(name, storedAs(name, shape), dtype);
      parameters.set(name, tensor);
    }
    return tensor;
  });
  return [...parameters.values()];
}

export function randomUnet(config: UnetConfig, dtype: Width): RandomPart {
  const { blocks, addedInputs, sizeEmbeddingDim } = config;
  const size = { batch: 1, latentHeight: 64, latentWidth: 64, tokens: 77 };
  const types = (part: 'Down' | 'Up') =>
    blocks.map(({ crossAttention }) => `${crossAttention ? 'CrossAttn' : ''}${part}Block2D`);
  return {
    stem: 'diffusion_pytorch_model',
    tensors: parametersOf(
      dtype,
      (get) => buildUnet(source(get), config, size),
      // Convolutions in files, matrices in the graph.
      (name, shape) =>
        !config.linearProjection && /\.attentions\.\d+\.proj_(in|out)\.weight$/.test(name)
          ? [...shape, 1, 1]
          : shape,
    ),
    config: {
      _class_name: 'UNet2DConditionModel',
      act_fn: 'silu',
      attention_head_dim: blocks.map(({ numHeads }) => numHeads),
      block_out_channels: blocks.map(({ channels }) => channels),
      cross_attention_dim: config.crossAttentionDim,
      down_block_types: types('Down'),
      up_block_types: types('Up').toReversed(),
      transformer_layers_per_block: blocks.map(({ transformerDepth = 1 }) => transformerDepth),
      use_linear_projection: config.linearProjection ?? false,
      ...(addedInputs === undefined
        ? {}
        : {
            addition_embed_type: 'text_time',
            addition_time_embed_dim: sizeEmbeddingDim,
            projection_class_embeddings_input_dim: addedInputs,
          }),
      in_channels: config.inChannels,
      out_channels: config.outChannels,
      layers_per_block: config.layersPerBlock,
      norm_num_groups: config.normGroups,
      sample_size: config.sampleSize,
    },
  };
}

export function randomTextEncoder(config: ClipTextConfig, dtype: Width): RandomPart {
  const pooled = config.projectionDim !== undefined;
  return {
    stem: 'model',
    tensors: parametersOf(dtype, (get) => {
      get(TOKEN_TABLE, [VOCABULARY, config.hiddenSize]);
      get('text_model.embeddings.position_embedding.weight', [config.maxPositions, config.hiddenSize]);
      buildTextEncoder(source(get), config, { batch: 1, tokens: config.maxPositions }, { pooled });
    }),
    config: {
      architectures: [pooled ? 'CLIPTextModelWithProjection' : 'CLIPTextModel'],
      model_type: 'clip_text_model',
      hidden_size: config.hiddenSize,
      intermediate_size: config.intermediateSize,
      num_hidden_layers: config.numLayers,
      num_attention_heads: config.numHeads,
      max_position_embeddings: config.maxPositions,
      hidden_act: config.hiddenAct,
      vocab_size: VOCABULARY,
      projection_dim: config.projectionDim ?? config.hiddenSize,
      bos_token_id: VOCABULARY - 2,
      eos_token_id: VOCABULARY - 1,
      pad_token_id: VOCABULARY - 1,
    },
  };
}

export function randomVae(config: VaeConfig, dtype: Width): RandomPart {
  const { blockChannels } = config;
  return {
    stem: 'diffusion_pytorch_model',
    tensors: parametersOf(dtype, (get) => {
      buildVaeEncoder(source(get), config, { batch: 1, imageHeight: 64, imageWidth: 64 });
      buildVaeDecoder(source(get), config, { batch: 1, latentHeight: 8, latentWidth: 8 });
    }),
    config: {
      _class_name: 'AutoencoderKL',
      block_out_channels: blockChannels,
      down_block_types: blockChannels.map(() => 'DownEncoderBlock2D'),
      up_block_types: blockChannels.map(() => 'UpDecoderBlock2D'),
      latent_channels: config.latentChannels,
      layers_per_block: config.layersPerBlock,
      norm_num_groups: config.normGroups,
      scaling_factor: config.scalingFactor,
      sample_size: 512,
    },
  };
}
