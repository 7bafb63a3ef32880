/**
 * A family that only tests know, as docs/architecture.md says one is added: other widths and another number of
 * cross-attentions than Stable Diffusion 1.x, prompts read one layer earlier, and models of its own.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import { type ClipTextConfig, clipTextSchema } from '../../../src/models/clip/config.ts';
import { buildTextEncoder } from '../../../src/models/clip/text-encoder.ts';
import type { BaseFamily } from '../../../src/models/families/family.ts';
import { sd1 } from '../../../src/models/families/sd1.ts';
import { sd1TokenEncoder } from '../../../src/models/families/sd1-token-encoder.ts';
import { type UnetConfig, unetSchema } from '../../../src/models/unet/config.ts';
import { buildUnet } from '../../../src/models/unet/unet.ts';
import { defaultBase } from '../../../src/package-root.ts';
import { randomWeights } from '../../support/random-weights.ts';

/** Numbers per word. */
export const WIDTH = 24;

const unetJson = {
  block_out_channels: [16, 32],
  down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
  up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  attention_head_dim: [2, 4],
  cross_attention_dim: WIDTH,
  norm_num_groups: 8,
  use_linear_projection: true,
  sample_size: 8,
};

const textJson = {
  hidden_size: WIDTH,
  intermediate_size: 2 * WIDTH,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  max_position_embeddings: 77,
};

const [text] = sd1.base.textEncoders;

export const dummy: BaseFamily = {
  ...sd1,
  name: 'dummy',
  title: 'Dummy Diffusion',
  shortTitle: 'Dummy',
  signs: { names: [], contextWidth: WIDTH, wordWidth: WIDTH, pipelines: /Dummy/ },
  base: {
    ...sd1.base,
    unet: { ...sd1.base.unet, published: unetSchema.parse(unetJson) },
    textEncoders: [{ ...text!, published: clipTextSchema.parse(textJson) }],
    // It reads the state before the last layer.
    tokenEncoder: (parts, options = {}) =>
      sd1TokenEncoder(parts, { ...options, clipSkip: 1 + (options.clipSkip ?? 0) }),
  },
};

/** Write a model of the family: a diffusers folder. */
export async function writeDummyModel(folder: string, vocabSize: number): Promise<void> {
  const unet = randomWeights();
  const config: UnetConfig = dummy.base.unet.published;
  buildUnet(unet.source, config, { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 77 });
  const encoder = randomWeights();
  const textConfig: ClipTextConfig = dummy.base.textEncoders[0]!.published;
  encoder.source.get('text_model.embeddings.token_embedding.weight', [vocabSize, WIDTH]);
  encoder.source.get('text_model.embeddings.position_embedding.weight', [77, WIDTH]);
  buildTextEncoder(encoder.source, textConfig, { batch: 1, tokens: 77 });
  const parts = [
    ['unet', 'diffusion_pytorch_model', unetJson, unet.asked],
    ['text_encoder', 'model', { ...textJson, vocab_size: vocabSize }, encoder.asked],
  ] as const;
  for (const [part, stem, json, tensors] of parts) {
    mkdirSync(path.join(folder, part), { recursive: true });
    writeFileSync(path.join(folder, part, 'config.json'), JSON.stringify(json));
    await writeSafetensors(path.join(folder, part, `${stem}.safetensors`), [...tensors.values()]);
  }
  const index: Record<string, unknown> = { _class_name: 'DummyPipeline' };
  for (const part of ['tokenizer', 'scheduler', 'vae']) {
    cpSync(path.join(defaultBase(), part), path.join(folder, part), { recursive: true });
  }
  for (const part of ['unet', 'text_encoder', 'tokenizer', 'scheduler', 'vae'])
    index[part] = ['diffusers', part];
  writeFileSync(path.join(folder, 'model_index.json'), JSON.stringify(index));
}
