/** Configurations that ask for a model of another size than the weights beside them, or of an absurd one. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
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
    ['infinity', 'vae', { scaling_factor: 1e308 }, /scaling_factor/],
  ])('of absurd %s is refused', async (_, part, fields, message) => {
    const opening = open(changed(part, fields));
    await expect(opening).rejects.toThrow(FormatError);
    await expect(opening).rejects.toThrow(message);
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
