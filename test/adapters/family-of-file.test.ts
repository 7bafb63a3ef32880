/** Which family an adapter is of, where its names alone do not say. */
import { describe, expect, it } from 'vitest';
import { familyOfAdapter } from '../../src/adapters/family-of-file.ts';
import { loadAdapter, readAdapter } from '../../src/adapters/read.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { scratch } from '../merging/random-adapters.ts';
import { casePath } from '../support/cases.ts';

type Shape = readonly number[];

/** One layer of kohya's names, of zeros. */
const factors = (layer: string, down: Shape, up: Shape = [4, 1]) => [
  float32Tensor(`${layer}.lora_down.weight`, down, new Float32Array(down.reduce((a, b) => a * b, 1))),
  float32Tensor(`${layer}.lora_up.weight`, up, new Float32Array(up.reduce((a, b) => a * b, 1))),
];
const familyOf = (tensors: ReturnType<typeof factors>, header: Record<string, string> = {}): string =>
  readAdapter(unwrittenFile('any.safetensors', tensors, header)).architecture;

const zeros = (shape: Shape) => new Float32Array(shape.reduce((a, b) => a * b, 1));
/** By its names, half pairs and all. */
const familyOfFile = (tensors: ReturnType<typeof factors>): string =>
  familyOfAdapter(unwrittenFile('any.safetensors', tensors)).name;

const shared = 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q';
const wide = 'lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k';
const text = 'lora_te1_text_model_encoder_layers_0_mlp_fc1';
const XL = 'sdxl_base_v1-0';

describe('the header decides where names do not', () => {
  it.each([
    ['ss_base_model_version', XL, 'sdxl'],
    ['ss_base_model_version', 'sd_v1', 'sd1'],
    ['modelspec.architecture', 'stable-diffusion-xl-v1-base/lora', 'sdxl'],
    ['modelspec.architecture', 'stable-diffusion-v1/lora', 'sd1'],
    ['baseModel', 'SDXL 1.0', 'sdxl'],
    ['baseModel', 'Pony', 'sdxl'],
    ['baseModel', 'SD 1.5', 'sd1'],
    ['baseModel', 'something of tomorrow', 'sd1'],
    ['ss_sd_model_name', 'sd_xl_base_1.0.safetensors', 'sdxl'],
    ['base_model', 'ponyRealism_v2', 'sdxl'],
  ])('%s: %s', (field, value, family) => {
    for (const layer of [shared, text, 'lora_unet_input_blocks_1_0_in_layers_2']) {
      expect(familyOf(factors(layer, [1, 4]), { [field]: value })).toBe(family);
    }
  });

  it('of a family whose layers are not listed, too', () => {
    expect(familyOf(factors(text, [1, 4]), { ss_base_model_version: 'sd_v2' })).toBe('sd2');
  });
});

describe('without a header', () => {
  it('the width of the text context, in any kind of layer', () => {
    const name = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v';
    const first = (suffix: string, shape: Shape) =>
      familyOfFile([float32Tensor(`${name}${suffix}`, shape, zeros(shape))]);
    for (const [width, family] of [
      [768, 'sd1'],
      [2048, 'sdxl'],
    ] as const) {
      expect(first('.lora_down.weight', [2, width])).toBe(family);
      expect(first('_lora.down.weight', [2, width])).toBe(family);
      expect(first('.lora_linear_layer.down.weight', [2, width])).toBe(family);
      expect(first('.lora_A', [2, width])).toBe(family);
      expect(first('.hada_w1_b', [2, width])).toBe(family);
      expect(first('.diff', [4, width])).toBe(family);
    }
  });

  it('sizes that one family alone has', () => {
    const conv = 'lora_unet_output_blocks_4_0_in_layers_2';
    expect(familyOf(factors(conv, [1, 1280, 3, 3], [640, 1, 1, 1]))).toBe('sdxl');
    expect(familyOf(factors(conv, [1, 2560, 3, 3], [1280, 1, 1, 1]))).toBe('sd1');
  });

  it('what a PEFT configuration calls the base', () => {
    const path = 'base_model.model.text_model.encoder.layers.0.mlp.fc1';
    const tensors = [
      float32Tensor(`${path}.lora_A.weight`, [1, 4], new Float32Array(4)),
      float32Tensor(`${path}.lora_B.weight`, [4, 1], new Float32Array(4)),
    ];
    const read = (config: Record<string, unknown>) =>
      readAdapter(unwrittenFile('adapter_model.safetensors', tensors), { config: { r: 1, ...config } });
    expect(read({}).architecture).toBe('sd1');
    expect(read({ base_model_name_or_path: 'stabilityai/stable-diffusion-xl-base-1.0' }).architecture).toBe(
      'sdxl',
    );
    expect(read({ base_model_name_or_path: '/models/sdxl/mine' }).architecture).toBe('sd1');
    const mapping = { base_model_class: 'CLIPTextModelWithProjection' };
    const [id] = read({ auto_mapping: mapping }).layers.keys();
    expect(id).toBe('text_encoder_2:text_model.encoder.layers.0.mlp.fc1');
  });
});

it('a name of a base contradicts nothing', () => {
  const layer = 'lora_unet_down_blocks_3_resnets_0_conv1';
  expect(familyOf(factors(layer, [1, 4]), { ss_sd_model_name: 'ponyRealism_sd15.safetensors' })).toBe('sd1');
  const field = { ss_base_model_version: 'sd_v1', base_model: 'ponyRealism' };
  expect(familyOf(factors(text, [1, 4]), field)).toBe('sd1');
});

describe('contradictions are errors', () => {
  it.each<[string, ReturnType<typeof factors>, Record<string, string>]>([
    [
      'names of SDXL',
      factors('lora_te2_text_model_encoder_layers_0_mlp_fc1', [1, 4]),
      { ss_base_model_version: 'sd_v1' },
    ],
    [
      'names of SD 1.x',
      factors('lora_unet_down_blocks_3_resnets_0_conv1', [1, 4]),
      { ss_base_model_version: XL },
    ],
    ['a context of SD 1.x', factors(wide, [1, 768]), { ss_base_model_version: XL }],
    ['a context of SDXL', factors(wide, [1, 2048]), { 'modelspec.architecture': 'stable-diffusion-v1/lora' }],
    [
      'sizes of SDXL',
      factors('lora_unet_up_blocks_1_resnets_1_conv1', [1, 1280, 3, 3], [640, 1, 1, 1]),
      { ss_base_model_version: 'sd_v1' },
    ],
    [
      'two fields',
      factors(shared, [1, 4]),
      { ss_base_model_version: XL, 'modelspec.architecture': 'stable-diffusion-v1/lora' },
    ],
  ])('%s', (_, tensors, header) => {
    expect(() => familyOf(tensors, header)).toThrow(FormatError);
    expect(() => familyOf(tensors, header)).toThrow(/header/);
  });
});

describe('SDXL files whose names do not prove it', () => {
  it.each(['sdxl_conv_only', 'sdxl_block0_only'])('%s stays SDXL and merges with SDXL', async (name) => {
    const input = casePath('adapters', `${name}.safetensors`);
    const names = [...(await openTensorFile(input)).tensors.keys()].sort();
    const out = scratch('lora.safetensors');
    await convertFile({ input, out, format: 'kohya' });
    const written = await openTensorFile(out);
    expect([...written.tensors.keys()].sort()).toEqual(names);
    expect(written.metadata.get('ss_base_model_version')).toBe(XL);
    const merged = scratch('merged.safetensors');
    const one = { strength: 1, textEncoderStrength: null, blockWeights: null };
    const inputs = [input, casePath('adapters', 'sdxl_label_emb.safetensors')].map((path) => ({
      path,
      ...one,
    }));
    await mergeFiles({ inputs, out: merged, format: 'kohya' });
    expect((await loadAdapter(merged)).architecture).toBe('sdxl');
  });

  it.each(['sdxl_label_emb', 'sdxl_add_embedding'])(
    '%s: what is added to the timestep is a layer',
    async (name) => {
      const { layers, unusable } = await loadAdapter(casePath('adapters', `${name}.safetensors`));
      expect(unusable).toEqual([]);
      const added = layers.get('unet:add_embedding.linear_1')!;
      expect(added.kind === 'lora' && [added.up.shape[0], added.down.shape[1]]).toEqual([1280, 2816]);
      const out = scratch('lora.safetensors');
      await convertFile({ input: casePath('adapters', `${name}.safetensors`), out, format: 'kohya' });
      expect([...(await openTensorFile(out)).tensors.keys()]).toContain(
        'lora_unet_label_emb_0_0.lora_up.weight',
      );
    },
  );
});
