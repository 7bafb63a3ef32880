/** PEFT's LoHa and LoKr, its folders, and what its configurations say of them. */

import { cpSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter, readAdapter } from '../../src/adapters/read.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { denseOf, scratch } from '../merging/random-adapters.ts';
import { casePath } from '../support/cases.ts';
import { relativeError } from '../support/close.ts';

const attention = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k';
const convolution = 'down_blocks.0.resnets.0.conv1';

async function matrices(folder: string) {
  const { tensors } = await openTensorFile(casePath('adapters', folder, 'adapter_model.safetensors'));
  return (
    layer: string,
    part: string,
  ): { rows: number; columns: number; at: (i: number, j: number) => number } => {
    const tensor = tensors.get(`base_model.model.${layer}.${part}`)!;
    const values = readFloat64(tensor);
    const [rows, columns] = tensor.shape as [number, number];
    return { rows, columns, at: (i, j) => values[i * columns + j]! };
  };
}

type Entries = { rows: number; columns: number; at: (i: number, j: number) => number };
const product = (a: Entries, b: Entries): Entries => ({
  rows: a.rows,
  columns: b.columns,
  at: (i, j) =>
    Array.from({ length: a.columns }, (_, k) => a.at(i, k) * b.at(k, j)).reduce((x, y) => x + y, 0),
});

describe.each([attention, convolution])('%s', (layer) => {
  // Both configurations: alpha 3, r 2.
  const scale = 3 / 2;

  it('LoHa is the product of two products, times alpha / r', async () => {
    const part = await matrices('p_loha');
    const [one, other] = ['1', '2'].map((which) =>
      product(part(layer, `hada_w${which}_a`), part(layer, `hada_w${which}_b`)),
    ) as [Entries, Entries];
    const { layers } = await loadAdapter(casePath('adapters', 'p_loha'));
    const expected = Array.from({ length: one.rows * one.columns }, (_, at) => {
      const [i, j] = [Math.floor(at / one.columns), at % one.columns];
      return scale * one.at(i, j) * other.at(i, j);
    });
    expect(relativeError(denseOf(layers.get(`unet:${layer}`)!), expected)).toBeLessThan(1e-6);
  });

  it('LoKr is the Kronecker product, times alpha / r', async () => {
    const part = await matrices('p_lokr');
    const one = part(layer, 'lokr_w1');
    const other = product(part(layer, 'lokr_w2_a'), part(layer, 'lokr_w2_b'));
    const { layers } = await loadAdapter(casePath('adapters', 'p_lokr'));
    const columns = one.columns * other.columns;
    const expected = Array.from({ length: one.rows * other.rows * columns }, (_, at) => {
      const [i, j] = [Math.floor(at / columns), at % columns];
      const left = one.at(Math.floor(i / other.rows), Math.floor(j / other.columns));
      return scale * left * other.at(i % other.rows, j % other.columns);
    });
    expect(relativeError(denseOf(layers.get(`unet:${layer}`)!), expected)).toBeLessThan(1e-6);
  });
});

const read = (parts: Record<string, readonly number[]>, config: Record<string, unknown>) => {
  const tensors = Object.entries(parts).map(([part, shape]) =>
    float32Tensor(
      `base_model.model.${attention}.${part}`,
      shape,
      new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1),
    ),
  );
  const { layers } = readAdapter(unwrittenFile('adapter_model.safetensors', tensors), { config });
  return [...layers.values()][0]!;
};

describe('scales', () => {
  const loha = { hada_w1_a: [4, 2], hada_w1_b: [2, 3], hada_w2_a: [4, 2], hada_w2_b: [2, 3] };
  it('count for a LoKr of whole factors too, and by pattern', () => {
    const whole = { lokr_w1: [2, 1], lokr_w2: [2, 3] };
    expect(read(whole, { peft_type: 'LOKR', r: 8, alpha: 2 }).scale).toBe(0.25);
    expect(read(whole, { peft_type: 'LOKR', r: 8, alpha: 2, rank_pattern: { to_k: 4 } }).scale).toBe(0.5);
    expect(read(loha, { peft_type: 'LOHA', r: 2, alpha: 2, alpha_pattern: { to_k: 6 } }).scale).toBe(3);
  });

  it('have the defaults of PEFT', () => expect(read(loha, { peft_type: 'LOHA', r: 2 }).scale).toBe(4));

  it('need the configured rank', () => {
    expect(() => read(loha, { peft_type: 'LOHA', r: 4 })).toThrow(FormatError);
  });
});

describe('a magnitude', () => {
  it.each([
    'lora_magnitude_vector',
    'lora_magnitude_vector.weight',
    'lora_magnitude_vector.default',
    'lora_magnitude_vector.style.weight',
  ])('is read as %s', (name) => {
    const layer = read(
      { 'lora_A.weight': [2, 3], 'lora_B.weight': [4, 2], [name]: [4] },
      { r: 2, use_dora: true },
    );
    expect(layer.doraScale?.shape).toEqual([4, 1]);
  });
});

describe('a folder one level up', () => {
  it('is the adapter in it', async () => {
    const { scheme, layers } = await loadAdapter(casePath('adapters', 'p_named_adapter'));
    expect([scheme, [...layers.keys()]]).toEqual(['peft', [`unet:${attention}`]]);
  });

  it('is refused if there are two', async () => {
    const folder = scratch('adapters');
    for (const name of ['one', 'two']) {
      mkdirSync(path.join(folder, name), { recursive: true });
      cpSync(casePath('adapters', 'p_named_adapter', 'style'), path.join(folder, name), { recursive: true });
    }
    await expect(loadAdapter(folder)).rejects.toThrow('expected one adapter, got one, two');
  });
});

describe('names of other programs', () => {
  const key = `unet:${attention}`;
  it.each([
    ['n_kohya_lora_A', [key]],
    ['n_orig_mod_kohya', [key]],
    ['n_comfy_native', [key, 'text_encoder:text_model.encoder.layers.0.self_attn.q_proj']],
    ['n_kohya_te_without_text_model', ['text_encoder:text_model.encoder.layers.0.self_attn.q_proj']],
    ['n_kohya_te_dotted', ['text_encoder:text_model.encoder.layers.0.self_attn.q_proj']],
    ['n_dora_diffusers_default', [key]],
  ])('%s', async (name, ids) => {
    const { layers, unusable } = await loadAdapter(casePath('adapters', `${name}.safetensors`));
    expect([[...layers.keys()], unusable]).toEqual([ids, []]);
    // Alpha 1 at rank 2; diffusers' file stores none.
    for (const { scale } of layers.values())
      expect(scale).toBe(name === 'n_dora_diffusers_default' ? 1 : 0.5);
  });
});

it('PEFT’s level may lie below the network’s', () => {
  const tensors = ['lora_A', 'lora_B'].map((part, i) =>
    float32Tensor(
      `unet.base_model.model.${attention}.${part}.weight`,
      i === 0 ? [1, 4] : [4, 1],
      new Float32Array(4),
    ),
  );
  const { scheme, layers } = readAdapter(unwrittenFile('any.safetensors', tensors));
  expect([scheme, [...layers.keys()]]).toEqual(['diffusers', [`unet:${attention}`]]);
});

it('spellings may stand side by side, words bundled beside any of them', () => {
  const pair = (layer: string, [up, down]: readonly [string, string]) => [
    float32Tensor(layer + up, [4, 1], new Float32Array(4)),
    float32Tensor(layer + down, [1, 4], new Float32Array(4)),
  ];
  const letters = ['.lora_B.weight', '.lora_A.weight'] as const;
  const kohya = ['.lora_up.weight', '.lora_down.weight'] as const;
  const word = float32Tensor('bundle_emb.cat.string_to_param.*', [1, 8], new Float32Array(8));
  for (const first of [
    pair('diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_v', letters),
    pair('unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v', letters),
    pair('lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v', kohya),
  ]) {
    const text = pair('lora_te_text_model_encoder_layers_0_mlp_fc1', kohya);
    const { layers, words, unusable } = readAdapter(
      unwrittenFile('any.safetensors', [...first, ...text, word]),
    );
    expect([...layers.keys()]).toEqual([
      `unet:${attention.replace('to_k', 'to_v')}`,
      'text_encoder:text_model.encoder.layers.0.mlp.fc1',
    ]);
    expect([words.map((entry) => entry.word), unusable]).toEqual([['cat'], []]);
  }
});
