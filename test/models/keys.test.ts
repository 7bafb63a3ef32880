import { describe, expect, it } from 'vitest';
import { parseAdapterName } from '../../src/adapters/schemes/names.ts';
import { peftScale, peftScaling } from '../../src/adapters/schemes/peft-names.ts';
import { isKnownLayer } from '../../src/models/families/known-layers.ts';
import { familyOf } from '../../src/models/families/recognise.ts';
import { SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { canonicalTextEncoderName, canonicalVaeName } from '../../src/models/keys/diffusers.ts';
import { ldmStructureOf, ldmUnetNames, ldmVaeNames } from '../../src/models/keys/ldm.ts';
import { modulePath } from '../../src/models/keys/module-path.ts';
import { goldenJson } from '../support/goldens.ts';

const parse = (name: string) => parseAdapterName(name, { architecture: 'sd1' });

describe('kohya names', () => {
  it.each([
    'lora_unet_down_blocks_0_attentions_0_proj_in',
    'lora_unet_down_blocks_0_attentions_0_proj_in.hada_w3_a',
    'lora_unet_down_blocks_00_attentions_0_proj_in.alpha',
    'lora_unet_down_blocks_0_attentions_0_norm.alpha',
    'lora_vae_mid_block.alpha',
  ])('does not know %s', (key) => expect(parse(key)).toBeNull());
});

describe('module paths', () => {
  it('know which network a bare path is of', () => {
    expect(modulePath('mid_block.resnets.0.conv1')?.component).toBe('unet');
    expect(modulePath('encoder.layers.0.mlp.fc1')).toEqual({
      component: 'text_encoder',
      layerName: 'text_model.encoder.layers.0.mlp.fc1',
    });
    expect(modulePath('transformer.h.0')).toBeNull();
  });

  it('exist or not', () => {
    const known = (layerName: string) => isKnownLayer({ component: 'unet', layerName });
    expect(known('up_blocks.12.attentions.3.transformer_blocks.0.ff.net.2')).toBe(true);
    expect(known('up_blocks.#.attentions.#.proj_in')).toBe(false);
    expect(known('up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out')).toBe(false);
    expect(known('up_blocks.0.attentions.0.transformer_blocks.0.ff.net.1')).toBe(false);
    expect(known('down_blocks.0.upsamplers.0.conv')).toBe(false);
  });

  it('are read with an adapter name, as PEFT has them in memory', () => {
    const key = 'base_model.model.mid_block.attentions.0.proj_in.lora_A.default.weight';
    expect(parse(key)?.part).toBe('down');
    expect(parse('unet.mid_block.attentions.0.proj_in.alpha')?.part).toBe('alpha');
    expect(parse('unet.mid_block.attentions.0.proj_in.weight')).toBeNull();
  });
});

describe('PEFT scaling', () => {
  const layer = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q';
  it('divides by the rank, or its root, with exceptions per layer', () => {
    const scaling = peftScaling('c', {
      peft_type: 'LORA',
      r: 4,
      lora_alpha: 8,
      rank_pattern: { to_v: 2, '^mid_block\\.attentions\\.0\\.proj_in$': 16 },
      alpha_pattern: { 'attn1.to_v': 3 },
    });
    expect(peftScale('f', scaling, layer, 4)).toBe(2);
    expect(peftScale('f', scaling, layer.replace('to_q', 'to_v'), 2)).toBe(1.5);
    expect(peftScale('f', scaling, 'mid_block.attentions.0.proj_in', 16)).toBe(0.5);
    expect(() => peftScale('f', scaling, layer, 5)).toThrow(/expected rank 4/);
    expect(peftScale('f', peftScaling('c', { r: 4, lora_alpha: 8, use_rslora: true }), layer, 4)).toBe(4);
  });

  it.each<[Record<string, unknown>, RegExp]>([
    [{}, /^c: r: expected a number above 0/],
    [{ r: 0 }, /r: expected/],
    [{ r: 4, lora_alpha: Number.NaN }, /lora_alpha/],
    [{ r: 4, peft_type: 'IA3' }, /peft_type/],
    [{ r: 4, use_dora: true }, /use_dora/],
    [{ r: 4, alpha_pattern: { '(a+)+$': 2 } }, /pattern/],
    [{ r: 4, rank_pattern: [1] }, /expected an object/],
  ])('refuses %j', (config, message) => expect(() => peftScaling('c', config)).toThrow(message));
});

describe('other names', () => {
  it('of old diffusers files become the present ones', () => {
    expect(canonicalVaeName('encoder.mid_block.attentions.0.proj_attn.bias')).toBe(
      'encoder.mid_block.attentions.0.to_out.0.bias',
    );
    expect(canonicalVaeName('encoder.conv_in.weight')).toBe('encoder.conv_in.weight');
    expect(canonicalTextEncoderName('final_layer_norm.bias')).toBe('text_model.final_layer_norm.bias');
  });

  it('of single files follow the depth of the network', () => {
    const deep = ldmUnetNames({
      layersPerBlock: 3,
      downAttention: [false, true],
      upAttention: [true, false],
    });
    expect(deep.toLdm('down_blocks.1.attentions.2.proj_in.weight')).toBe(
      'model.diffusion_model.input_blocks.7.1.proj_in.weight',
    );
    expect(deep.fromLdm('model.diffusion_model.output_blocks.3.2.conv.bias')).toBe(
      'up_blocks.0.upsamplers.0.conv.bias',
    );
    expect(deep.toLdm('down_blocks.1.downsamplers.0.conv.weight')).toBeNull();
    expect(deep.fromLdm('first_stage_model.quant_conv.bias')).toBeNull();
    expect(
      ldmVaeNames({ blocks: 2, layersPerBlock: 1 }).toLdm('decoder.up_blocks.0.resnets.1.conv1.bias'),
    ).toBe('first_stage_model.decoder.up.1.block.1.conv1.bias');
    expect(ldmUnetNames(ldmStructureOf(SD15_UNET)).toLdm('nothing.weight')).toBeNull();
  });
});

describe('the family of a file', () => {
  const at = (name: string, shape: number[] = [4, 4]) => familyOf([{ name, shape }]).title;
  it('names what is not SD 1.x', () => {
    const sdxl = goldenJson<{ modules: { kohya: string; diffusers_module: string }[] }>(
      'goldens-fusion/keys/sdxl_kohya_keys.json',
    );
    for (const key of ['kohya', 'diffusers_module'] as const) {
      expect(familyOf(sdxl.modules.map((entry) => ({ name: entry[key], shape: [] }))).title).toBe('SDXL');
    }
    expect(at('unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight', [4, 2048])).toBe(
      'SDXL',
    );
    const attn2 = 'mid_block_attentions_0_transformer_blocks_0_attn2';
    expect(at(`lora_unet_${attn2}_to_v.lora_down.weight`, [8, 1024])).toBe('Stable Diffusion 2.x');
    expect(at(`lora_unet_${attn2}_to_q.lora_down.weight`, [8, 1024])).toBe('Stable Diffusion 1.x');
    expect(at(`lora_unet_${attn2}_to_v.lora_down.weight`, [8, 768])).toBe('Stable Diffusion 1.x');
    expect(at('lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight')).toMatch(/^Flux/);
    expect(
      familyOf(
        [
          'transformer.transformer_blocks.0.attn.to_q',
          'transformer.single_transformer_blocks.0.attn.to_q',
        ].map((name) => ({ name: `${name}.lora_A.weight`, shape: [4, 4] })),
      ).title,
    ).toMatch(/^Flux/);
    expect(at('lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight')).toBe('SD 3');
  });
});
