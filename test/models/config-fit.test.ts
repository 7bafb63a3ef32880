/** Configurations that ask for a model of another size than the weights beside them, or of an absurd one. */
import { cpSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { clipTextSchema } from '../../src/models/clip/config.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { vaeSchema } from '../../src/models/vae/config.ts';
import { defaultBase } from '../../src/package-root.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { goldenPath } from '../support/goldens.ts';

const model = goldenPath('goldens/tiny-random/model');
const scratch = scratchFolder();
let count = 0;

/** A copy of the model with some fields of one configuration replaced. */
function changed(part: string, fields: object): string {
  const folder = scratch(String(count++));
  cpSync(model, folder, { recursive: true });
  const file = path.join(folder, part, 'config.json');
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...fields }));
  return folder;
}

const SCHEMAS = { unet: unetSchema, vae: vaeSchema, text_encoder: clipTextSchema };

/** The model's own configuration. */
const plain = (part: string): object =>
  JSON.parse(readFileSync(path.join(model, part, 'config.json'), 'utf8')) as object;

async function open(folder: string): Promise<void> {
  await (await openCheckpoint(folder)).parts.vae();
}

describe('a configuration', () => {
  it('that fits is taken', async () => {
    await expect(open(changed('unet', {}))).resolves.toBeUndefined();
  });

  it.each<[string, string, object, RegExp]>([
    ['channels', 'unet', { block_out_channels: [1e9, 64] }, /block_out_channels/],
    [
      'other channels',
      'unet',
      { block_out_channels: [32_768, 32_768, 32_768, 32_768] },
      /block_out_channels\[0\]: expected \d+, as down_/,
    ],
    ['layers', 'unet', { layers_per_block: 1e6 }, /layers_per_block/],
    [
      'text width',
      'unet',
      { cross_attention_dim: 65_536 },
      /cross_attention_dim: expected \d+, as down_.* got 65536/,
    ],
    ['latents', 'unet', { sample_size: 65_536 }, /sample_size/],
    ['heads', 'unet', { attention_head_dim: 7 }, /a multiple of norm_num_groups \d+ and of 7 heads/],
    ['types', 'unet', { block_out_channels: 'many' }, /block_out_channels/],
    ['text layers', 'text_encoder', { num_hidden_layers: 1e6 }, /num_hidden_layers/],
    [
      'more text layers',
      'text_encoder',
      { num_hidden_layers: 999 },
      /num_hidden_layers: expected at most \d+, .* got 999/,
    ],
    ['hidden size', 'text_encoder', { hidden_size: 65_536 }, /hidden_size: expected \d+, as text_model/],
    ['positions', 'text_encoder', { max_position_embeddings: 65_536 }, /max_position_embeddings: expected/],
    ['heads of text', 'text_encoder', { num_attention_heads: 7 }, /a divisor of hidden_size/],
    ['decoder', 'vae', { block_out_channels: [32, 65_536] }, /block_out_channels/],
    ['latent channels', 'vae', { latent_channels: 65_536 }, /latent_channels: expected/],
    ['groups', 'vae', { norm_num_groups: 7 }, /multiples of norm_num_groups/],
    ['weights beside it', 'unet', { in_channels: 9, out_channels: 9 }, /in_channels: expected 4, as conv_in/],
    ['latents of another size', 'vae', { latent_channels: 16 }, /latent_channels: expected 4/],
    ['infinity', 'vae', { scaling_factor: 1e308 }, /scaling_factor/],
  ])('of absurd %s is refused', async (_, part, fields, message) => {
    const opening = open(changed(part, fields));
    await expect(opening).rejects.toThrow(FormatError);
    await expect(opening).rejects.toThrow(message);
  });

  it.each<[keyof typeof SCHEMAS, object, RegExp]>([
    ['unet', { _class_name: 'UNetMotionModel' }, /_class_name: expected "UNet2DConditionModel"/],
    ['unet', { in_channels: 9 }, /in_channels: expected 4 as out_channels, got 9; .*\(inpainting\)/],
    ['unet', { in_channels: 8 }, /in_channels: .* got 8; .*\(instructions on a picture\)/],
    [
      'unet',
      { only_cross_attention: true },
      /only_cross_attention: expected false, got true; not built here/,
    ],
    ['unet', { only_cross_attention: [false, true, false, false] }, /only_cross_attention: expected false/],
    ['unet', { class_embed_type: 'timestep' }, /class_embed_type: expected nothing, got "timestep"/],
    ['unet', { num_class_embeds: 1000 }, /num_class_embeds/],
    ['unet', { addition_embed_type: 'text_image' }, /addition_embed_type: expected "text_time"/],
    [
      'unet',
      {
        addition_embed_type: 'text_time',
        addition_time_embed_dim: 8,
        projection_class_embeddings_input_dim: 48,
      },
      /projection_class_embeddings_input_dim: expected more than 6 times .*, got 48 and 8/,
    ],
    [
      'unet',
      { mid_block_type: 'UNetMidBlock2DSimpleCrossAttn' },
      /mid_block_type: expected .* or null, got "UNetMid/,
    ],
    ['unet', { mid_block_type: 'UNetMidBlock2D' }, /mid_block_type/],
    ['unet', { time_embedding_type: 'fourier' }, /time_embedding_type: expected "positional", got "fourier"/],
    [
      'unet',
      { out_channels: 8 },
      /out_channels: expected 4 as in_channels, got 8; a UNet that predicts more/,
    ],
    ['unet', { time_cond_proj_dim: 256 }, /time_cond_proj_dim/],
    ['unet', { act_fn: 'gelu' }, /act_fn/],
    ['unet', { conv_in_kernel: 1 }, /conv_in_kernel/],
    ['unet', { cross_attention_dim: [32, 32, 32, 32] }, /cross_attention_dim/],
    ['unet', { layers_per_block: [2, 2, 2, 2] }, /layers_per_block/],
    ['unet', { down_block_types: Array(4).fill('SimpleCrossAttnDownBlock2D') }, /down_block_types/],
    ['unet', { attention_window: 8 }, /attention_window: expected a field that is known here, got 8/],
    ['unet', { rope: { theta: 1e4 } }, /rope: expected a field that is known here/],
    ['vae', { _class_name: 'AutoencoderTiny' }, /_class_name: expected "AutoencoderKL"/],
    ['vae', { act_fn: 'relu' }, /act_fn/],
    [
      'vae',
      { down_block_types: ['AttnDownEncoderBlock2D'] },
      /down_block_types: expected "DownEncoderBlock2D"/,
    ],
    ['vae', { shift_factor: 0.1 }, /shift_factor/],
    ['vae', { latents_mean: [0.1] }, /latents_mean/],
    ['vae', { patch_size: 2 }, /patch_size: expected a field that is known here/],
    ['text_encoder', { model_type: 't5' }, /model_type: expected "clip_text_model", got "t5"/],
  ])('of a %s with %j, which is not built here, is refused', (part, fields, message) => {
    const parsed = SCHEMAS[part].safeParse({ ...plain(part), ...fields });
    const { path: at, message: text } = parsed.error!.issues[0]!;
    expect(`${at.join('.')}: ${text}`).toMatch(message);
  });

  it('that is not built here is refused on opening, by its file', async () => {
    const folder = changed('unet', { in_channels: 9 });
    await expect(open(folder)).rejects.toThrow(FormatError);
    await expect(open(folder)).rejects.toThrow(`${path.join(folder, 'unet', 'config.json')}: in_channels: `);
  });

  it('may have fields that change nothing', () => {
    const unet = {
      only_cross_attention: [false, false, false, false],
      decay: 0.9999,
      new_field: null,
      dual_norm: false,
      upcast_attention: true,
      _note: 'x',
    };
    expect(unetSchema.parse({ ...plain('unet'), ...unet })).toEqual(unetSchema.parse(plain('unet')));
    const vae = { force_upcast: true, sample_size: 512 };
    expect(vaeSchema.parse({ ...plain('vae'), ...vae })).toEqual(vaeSchema.parse(plain('vae')));
  });

  it('of a network that does not fit the UNet is refused, whatever its own weights say', async () => {
    const other = changed('vae', { latent_channels: 8 });
    const file = path.join(other, 'vae', 'diffusion_pytorch_model.safetensors');
    const { tensors } = await openTensorFile(file);
    const wide = float32Tensor('decoder.conv_in.weight', [32, 8, 3, 3], new Float32Array(32 * 72));
    const rest = [...tensors.values()].filter(({ name }) => name !== wide.name);
    await writeSafetensors(`${file}.new`, [...rest, wide]);
    renameSync(`${file}.new`, file);
    await expect(open(other)).rejects.toThrow(/latent_channels: expected 4 as the UNet's in_channels, got 8/);

    const text = changed('unet', {});
    cpSync(path.join(defaultBase(), 'text_encoder'), path.join(text, 'text_encoder'), { recursive: true });
    const opening = open(text);
    await expect(opening).rejects.toThrow(FormatError);
    await expect(opening).rejects.toThrow(/cross_attention_dim: expected 64, the hidden_size .* got 32/);
  });

  it('that is no configuration is refused by name', async () => {
    const folder = changed('unet', {});
    const file = path.join(folder, 'unet', 'config.json');
    for (const text of [
      '',
      '[]',
      'null',
      '{"__proto__": {"in_channels": 4}}',
      '{"a": 1, "a": 2}',
      '['.repeat(1e5),
    ]) {
      writeFileSync(file, text);
      await expect(open(folder)).rejects.toThrow(FormatError);
      await expect(open(folder)).rejects.toThrow(file);
    }
  });
});
