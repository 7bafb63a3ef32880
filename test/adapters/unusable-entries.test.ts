/** Entries that no LoRA can hold are named, and without them the rest is what it would be alone. */
import { describe, expect, it } from 'vitest';
import { loadAdapter, readAdapter } from '../../src/adapters/read.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { float32Tensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { foreignMergeNames } from '../../src/merging/foreign-merges.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { lintFiles } from '../../src/merging/jobs/lint-files.ts';
import { denseOf, scratch } from '../merging/random-adapters.ts';
import { casePath } from '../support/cases.ts';
import { relativeError } from '../support/close.ts';

/** File, layers beside the entries, a word of the reason. */
const FILES: readonly (readonly [name: string, layers: number, reason: string])[] = [
  ['n_norm_diff.safetensors', 1, 'a normalisation layer'],
  ['n_diffb_only_beside.safetensors', 1, 'the bias alone'],
  ['n_emb_in_lora.safetensors', 1, 'an embedding'],
  ['p_bias_all', 3, 'a trained bias'],
  ['p_bias_lora_only', 1, 'a trained bias'],
  ['p_lora_bias', 1, 'a trained bias'],
  ['p_token_embedding', 3, 'token embeddings'],
];

describe.each(FILES)('%s', (name, count, reason) => {
  const input = casePath('adapters', name);

  it('is read with what it cannot use named', async () => {
    const { layers, unusable } = await loadAdapter(input);
    expect(layers.size).toBe(count);
    expect(unusable.map((entry) => entry.reason).join()).toContain(reason);
  });

  it('needs the drop option, and goes on with the rest unchanged', async () => {
    const adapter = await loadAdapter(input);
    const out = scratch('lora.safetensors');
    const { name: entry } = adapter.unusable[0]!;
    await expect(convertFile({ input, out, format: 'kohya' })).rejects.toThrow(entry);
    const { dropped } = await convertFile({ input, out, format: 'kohya', drop: true });
    expect(dropped.length).toBe(adapter.unusable.length);
    const written = await loadAdapter(out);
    expect([...written.layers.keys()].sort()).toEqual([...adapter.layers.keys()].sort());
    for (const [id, layer] of adapter.layers) {
      expect(relativeError(denseOf(written.layers.get(id)!), denseOf(layer))).toBeLessThan(1e-6);
    }
  });
});

it('lint says what is in neither sum', async () => {
  const one = { strength: 1, textEncoderStrength: null, blockWeights: null };
  const path = casePath('adapters', 'n_norm_diff.safetensors');
  const [report] = await lintFiles({ inputs: [{ path, ...one }], tools: [foreignMergeNames[0]!] });
  expect(report!.unsupported.map(({ reason }) => reason)).toEqual([
    'a normalisation layer',
    'a normalisation layer',
  ]);
});

const module = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k';
const ones = (name: string, ...shape: number[]) =>
  float32Tensor(name, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1));
const pair = (layer = module) => [
  ones(`${layer}.lora_up.weight`, 4, 2),
  ones(`${layer}.lora_down.weight`, 2, 3),
];
const read = (...tensors: ReturnType<typeof ones>[]) =>
  readAdapter(unwrittenFile('any.safetensors', tensors));

describe('beside a layer', () => {
  it.each([
    [`${module.replace('to_k', 'to_q')}.alpha`, 'alpha without factors'],
    [`${module}.set_weight`, 'a whole weight'],
    ['lora_unet_mid_block_attentions_0_norm.w_norm', 'a normalisation layer'],
    ['lora_te_text_model_final_layer_norm.diff', 'a normalisation layer'],
    ['diffusion_model.input_blocks.1.0.in_layers.0.diff', 'a normalisation layer'],
    ['lora_unet_out_0.diff_b', 'a normalisation layer'],
    ['lora_te_text_model_embeddings_token_embedding.lora_down.weight', 'token embeddings'],
    ['base_model.model.conv_in.modules_to_save.weight', 'modules_to_save'],
    ['base_model.model.text_model.embeddings.token_embedding.trainable_tokens_delta', 'trained tokens'],
    [`${module}.oft_blocks`, 'OFT'],
    ['lora_unet_of_tomorrow.lora_up.weight', 'no known layer'],
    ['anything', 'no known layer'],
    ['base_model.model.conv_in.weight', 'a whole weight'],
  ])('%s: %s', (name, reason) => {
    const { layers, unusable } = read(...pair(), ones(name, 4));
    expect(layers.size).toBe(1);
    expect(unusable).toEqual([{ name, reason: expect.stringContaining(reason) }]);
  });

  it('a layer that is scaled by 0', () => {
    const other = module.replace('to_k', 'to_v');
    for (const part of ['alpha', 'scale', 'scalar']) {
      const { layers, unusable } = read(
        ...pair(),
        ...pair(other),
        float32Tensor(`${other}.${part}`, [], Float32Array.of(0)),
      );
      expect([layers.size, unusable.length]).toEqual([1, 3]);
      expect(unusable[0]!.reason).toContain('0: the layer changes nothing');
    }
  });

  it('empty tensors count for nothing', () => {
    expect(read(...pair(), float32Tensor('dummy', [0], new Float32Array())).unusable).toEqual([]);
  });
});

describe('what remains an error', () => {
  it('a file of nothing that is known', () => {
    expect(() => read(ones('lora_unet_of_tomorrow.alpha', 1))).toThrow('no known layer');
  });

  it('a magnitude whose factors are spelled otherwise, which would leave another change', async () => {
    const half = casePath('adapters', 'n_dora_half_kohya.safetensors');
    await expect(loadAdapter(half)).rejects.toThrow('half converted');
    expect(() => read(...pair(), ones(`${module.replace('to_k', 'to_q')}.dora_scale`, 4, 1))).toThrow(
      'without factors',
    );
    // All of a layer that is not known may be left out.
    const unknown = 'lora_unet_of_tomorrow';
    expect(read(...pair(), ...pair(unknown), ones(`${unknown}.dora_scale`, 4, 1)).unusable.length).toBe(3);
  });
});

describe('a trained scalar', () => {
  it('multiplies the change', async () => {
    const { layers } = await loadAdapter(casePath('adapters', 'n_trained_scalar.safetensors'));
    const [layer] = layers.values();
    // Alpha 1 at rank 2, times 0.25.
    expect(layer!.scale).toBe(0.125);
  });

  it.each([
    ['diff', { diff: [2, 3] }],
    ['lokr', { lokr_w1: [1, 1], lokr_w2: [2, 3] }],
  ])('multiplies numbers that are stored without a rank: %s', async (kind, parts) => {
    const tensors = Object.entries(parts).map(([part, shape]) => ones(`${module}.${part}`, ...shape));
    const adapter = read(...tensors, float32Tensor(`${module}.scalar`, [1], Float32Array.of(0.25)));
    const out = scratch('lora.safetensors');
    await writeAdapter(out, 'lycoris', (await convertAdapter(adapter, 'lycoris')).output);
    const [written] = (await loadAdapter(out)).layers.values();
    expect([written!.kind, written!.scale, new Set(denseOf(written!))]).toEqual([kind, 1, new Set([0.25])]);
  });

  it.each(['kohya', 'lycoris', 'diffusers', 'peft'] as const)(
    'is written into what %s stores',
    async (format) => {
      const whole = [
        ones(`${module}.lokr_w1`, 2, 1),
        ones(`${module}.lokr_w2`, 2, 3),
        float32Tensor(`${module}.scalar`, [1], Float32Array.of(0.25)),
      ];
      const other = module.replace('to_k', 'to_q');
      const tensors = [...whole, ...pair(other), float32Tensor(`${other}.scalar`, [1], Float32Array.of(0.5))];
      const adapter = readAdapter(unwrittenFile('any.safetensors', tensors));
      const out = scratch(format === 'peft' ? 'adapter' : 'lora.safetensors');
      await writeAdapter(out, format, (await convertAdapter(adapter, format, { rank: 2 })).output);
      const written = (await loadAdapter(out)).layers;
      for (const [id, layer] of adapter.layers) {
        expect(relativeError(denseOf(written.get(id)!), denseOf(layer)), id).toBeLessThan(1e-6);
      }
      const [first] = [...adapter.layers.values()].map(denseOf);
      expect([...new Set(first)]).toEqual([0.25]);
      expect(readFloat64(whole[2]!)[0]).toBe(0.25);
    },
  );
});
