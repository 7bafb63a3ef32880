/** Original single files as other programs write them: other names for the same weights, networks left out. */
import { cpSync, rmSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { openClipNames } from '../../src/models/keys/open-clip.ts';
import { heldParameters } from '../../src/models/keys/read-names.ts';
import { planScene } from '../../src/sampling/draw-scene.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { goldenPath } from '../support/goldens.ts';
import { type SingleFileChanges, writeSingleFile } from '../support/single-files.ts';

const scratch = scratchFolder();
const model = goldenPath('goldens/tiny-random/model');
let count = 0;

const written = (changes: SingleFileChanges): Promise<string> =>
  writeSingleFile(scratch(String(count++), 'base.safetensors'), changes);
const open = async (changes: SingleFileChanges, configFolder = model): Promise<Checkpoint> =>
  openCheckpoint(await written(changes), { configFolder });

/** A copy of the model's folder without some of its networks. */
function without(...parts: string[]): string {
  const folder = scratch(String(count++));
  cpSync(model, folder, { recursive: true });
  for (const part of parts) rmSync(path.join(folder, part), { recursive: true });
  return folder;
}

let plain: Checkpoint;
beforeAll(async () => {
  plain = await openCheckpoint(model);
});

const VAE = 'first_stage_model.';
const TEXT = 'cond_stage_model.transformer.';
const QUERY = 'encoder.mid_block.attentions.0.to_q.weight';
const OUT = 'decoder.mid_block.attentions.0.to_out.0.bias';
const NORM = 'decoder.mid_block.attentions.0.group_norm.weight';
const VALUE = 'text_model.encoder.layers.1.self_attn.v_proj.weight';
const TABLE = 'text_model.embeddings.token_embedding.weight';

/** The same numbers in both, matrices or 1×1 convolutions. */
async function expectSame(base: Checkpoint): Promise<void> {
  const [own, theirs] = [await base.parts.vae(), await plain.parts.vae()];
  for (const name of [QUERY, OUT, NORM]) {
    expect(readFloat32(own.weights.get(name)!), name).toEqual(readFloat32(theirs.weights.get(name)!));
  }
  for (const name of [VALUE, TABLE]) {
    const [mine, right] = [base, plain].map(({ parts }) => parts.textEncoder.weights.get(name)!);
    expect(readFloat32(mine!), name).toEqual(readFloat32(right!));
  }
}

describe('a single file', () => {
  const attention = (names: Readonly<Record<string, string>>) => (name: string) =>
    name.replace(
      /(\.attn_1\.)(norm|q|k|v|proj_out)(?=\.)/,
      (_, before: string, own: string) => before + (names[own] ?? own),
    );
  it.each<[string, (name: string) => string]>([
    ['in the original names', (name) => name],
    [
      'with diffusers’ names in the autoencoder’s attention',
      attention({ q: 'to_q', k: 'to_k', v: 'to_v', proj_out: 'to_out.0' }),
    ],
    [
      'with its older ones',
      attention({ norm: 'group_norm', q: 'query', k: 'key', v: 'value', proj_out: 'proj_attn' }),
    ],
    ['with a buffer twice', (name) => (name === 'betas' ? `${TEXT}embeddings.position_ids` : name)],
    ['with the text encoder without its level', (name) => name.replace(`${TEXT}text_model.`, TEXT)],
  ])('%s has the same weights', async (_, rename) => {
    await expectSame(await open({ rename }));
  });

  it.each([
    ['autoencoder', VAE, 'vae'],
    ['text encoder', 'cond_stage_model.', 'text_encoder'],
  ])(
    'without %s takes that of the folder, and asks for it before anything is drawn',
    async (_, prefix, part) => {
      const rename = (name: string): string | null => (name.startsWith(prefix) ? null : name);
      await expectSame(await open({ rename }));
      const [base, baseConfig] = [await written({ rename }), without(part)];
      const planned = planScene(normalScene({ base, baseConfig, prompt: 'x' }));
      await expect(planned).rejects.toThrow(FormatError);
      await expect(planned).rejects.toThrow(
        new RegExp(
          `base\\.safetensors: holds no ${part} \\(.*; name a diffusers folder that has ${part}/ with \`configFolder\``,
        ),
      );
    },
  );

  it.each<[string, SingleFileChanges, RegExp]>([
    [
      'a layer of another network',
      {
        more: [
          float32Tensor('model.diffusion_model.input_blocks.1.1.norm_2.weight', [2], new Float32Array(2)),
        ],
      },
      /got 1 of no layer in it: model\.diffusion_model\.input_blocks\.1\.1\.norm_2\.weight/,
    ],
    [
      'a bias where there is none',
      {
        more: [
          float32Tensor(
            'model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.bias',
            [2],
            new Float32Array(2),
          ),
        ],
      },
      /got 1 of no layer in it/,
    ],
    [
      'a layer missing',
      { rename: (name) => (name.includes('.out.2.') ? null : name) },
      /no weights for 2 parameters: conv_out\.weight, conv_out\.bias/,
    ],
    [
      'two tensors for one',
      { more: [float32Tensor(`${TEXT}final_layer_norm.bias`, [32], new Float32Array(32))] },
      /expected text_model\.final_layer_norm\.bias once, got it twice/,
    ],
  ])('with %s is refused on opening', async (_, changes, message) => {
    const opening = open(changes);
    await expect(opening).rejects.toThrow(FormatError);
    await expect(opening).rejects.toThrow(message);
  });

  it('of an inpainting model is called so', async () => {
    const conv = 'model.diffusion_model.input_blocks.0.0.weight';
    const wide = float32Tensor(conv, [32, 9, 3, 3], new Float32Array(32 * 81));
    const opening = open({ rename: (name) => (name === conv ? null : name), more: [wide] });
    await expect(opening).rejects.toThrow(/in_channels: expected 9, .* got 4; .*\(inpainting\)/);
  });
});

describe('OpenCLIP’s names', () => {
  const read = openClipNames('conditioner.embedders.1.model.');
  const block = 'conditioner.embedders.1.model.transformer.resblocks.7';
  const layer = 'text_model.encoder.layers.7';
  it.each<[string, string[]]>([
    [`${block}.attn.in_proj_weight`, ['q', 'k', 'v'].map((part) => `${layer}.self_attn.${part}_proj.weight`)],
    [`${block}.attn.in_proj_bias`, ['q', 'k', 'v'].map((part) => `${layer}.self_attn.${part}_proj.bias`)],
    [`${block}.attn.out_proj.bias`, [`${layer}.self_attn.out_proj.bias`]],
    [`${block}.mlp.c_fc.weight`, [`${layer}.mlp.fc1.weight`]],
    [`${block}.mlp.c_proj.bias`, [`${layer}.mlp.fc2.bias`]],
    [`${block}.ln_2.weight`, [`${layer}.layer_norm2.weight`]],
    [
      'conditioner.embedders.1.model.positional_embedding',
      ['text_model.embeddings.position_embedding.weight'],
    ],
    ['conditioner.embedders.1.model.token_embedding.weight', [TABLE]],
    ['conditioner.embedders.1.model.ln_final.bias', ['text_model.final_layer_norm.bias']],
    ['conditioner.embedders.1.model.logit_scale', []],
    [`${block}.attn.in_proj`, []],
    ['conditioner.embedders.0.model.ln_final.bias', []],
  ])('%s', (stored, names) => expect(read(stored)).toEqual(names));

  it('of fused attention are rows one after the other', () => {
    const fused = float32Tensor(
      'w',
      [6, 2],
      Float32Array.from({ length: 12 }, (_, i) => i),
    );
    const held = heldParameters(fused, ['q', 'k', 'v']);
    expect(held.map(({ name, firstRow, tensor }) => [name, firstRow, [...readFloat32(tensor)]])).toEqual([
      ['q', 0, [0, 1, 2, 3]],
      ['k', 2, [4, 5, 6, 7]],
      ['v', 4, [8, 9, 10, 11]],
    ]);
    expect(heldParameters(fused, ['a', 'b', 'c', 'd'])).toEqual([]);
  });
});
