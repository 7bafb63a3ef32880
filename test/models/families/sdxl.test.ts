/** What SDXL models lie on disk as: variants, shards, single files, parts that are missing, and models of its kind that are not drawn. */
import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { layerOfName } from '../../../src/adapters/schemes/layer-names.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { openTensorFile } from '../../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import { tokenizerBeside } from '../../../src/models/base-tokenizer.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import { familyOf } from '../../../src/models/families/recognise.ts';
import { sd2 } from '../../../src/models/families/sd2.ts';
import { sdxl } from '../../../src/models/families/sdxl.ts';
import { unetParameters } from '../../../src/models/unet/parameter-names.ts';
import { crossAttentionNames } from '../../../src/models/unet/structure.ts';
import { familySingleFile } from '../../support/golden-families.ts';
import { familiesPath, goldenPath } from '../../support/goldens.ts';
import { scratch } from '../../support/scratch.ts';

const model = familiesPath('sdxl', 'model');
let single: string;
let plain: Checkpoint;
beforeAll(async () => {
  single = await familySingleFile('sdxl');
  plain = await openCheckpoint(model);
});

/** A copy of the folder without some of its parts. */
function copyWithout(...parts: string[]): string {
  const folder = scratch('model');
  cpSync(model, folder, { recursive: true });
  for (const part of parts) rmSync(path.join(folder, part), { recursive: true });
  return folder;
}
function edited(file: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(file, JSON.stringify(json));
}
/** The single file with some tensors left out or added. */
async function singleWith(
  keep: (name: string) => boolean,
  keys: readonly string[] = [],
  metadata: Record<string, string> = {},
): Promise<string> {
  const { tensors } = await openTensorFile(single);
  const file = scratch('base.safetensors');
  const signs = keys.map((key) => float32Tensor(key, [1], Float32Array.of(1)));
  await writeSafetensors(
    file,
    [...[...tensors.values()].filter(({ name }) => keep(name)), ...signs],
    metadata,
  );
  return file;
}
const LAYER = 'mid_block.attentions.0.transformer_blocks.1.attn2.to_k.weight';

describe('an SDXL folder', () => {
  it('may have its weights as the fp16 variant', async () => {
    const folder = copyWithout();
    for (const part of ['unet', 'vae', 'text_encoder', 'text_encoder_2']) {
      for (const name of readdirSync(path.join(folder, part)).filter((file) =>
        file.endsWith('.safetensors'),
      )) {
        const at = path.join(folder, part, name);
        renameSync(at, at.replace('.safetensors', '.fp16.safetensors'));
      }
    }
    const base = await openCheckpoint(folder);
    expect(base.family.name).toBe('sdxl');
    expect(readFloat32(base.parts.unet.weights.get(LAYER)!)).toEqual(
      readFloat32(plain.parts.unet.weights.get(LAYER)!),
    );
    expect((await base.parts.vae()).config.scalingFactor).toBe(
      (await plain.parts.vae()).config.scalingFactor,
    );
  });

  it('may have its UNet in shards', async () => {
    const folder = copyWithout();
    const unet = path.join(folder, 'unet');
    const whole = path.join(unet, readdirSync(unet).find((file) => file.endsWith('.safetensors'))!);
    const tensors = [...(await openTensorFile(whole)).tensors.values()];
    const half = Math.ceil(tensors.length / 2);
    const weight_map: Record<string, string> = {};
    for (const [i, part] of [tensors.slice(0, half), tensors.slice(half)].entries()) {
      const name = `diffusion_pytorch_model-0000${i + 1}-of-00002.safetensors`;
      await writeSafetensors(path.join(unet, name), part);
      for (const tensor of part) weight_map[tensor.name] = name;
    }
    rmSync(whole);
    writeFileSync(
      path.join(unet, 'diffusion_pytorch_model.safetensors.index.json'),
      JSON.stringify({ metadata: {}, weight_map }),
    );
    const base = await openCheckpoint(folder);
    expect(readFloat32(base.parts.unet.weights.get(LAYER)!)).toEqual(
      readFloat32(plain.parts.unet.weights.get(LAYER)!),
    );
  });

  it('without a text encoder takes it from the configurations’ folder, or says which is missing', async () => {
    const folder = copyWithout('text_encoder_2');
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /holds no text_encoder_2\/; name a diffusers folder that has text_encoder_2\/ with `configFolder`/,
    );
    const base = await openCheckpoint(folder, { configFolder: model });
    expect([...base.parts.textEncoders.keys()]).toEqual(['text_encoder', 'text_encoder_2']);
  });

  it('that has a text encoder’s configuration alone lacks the encoder', async () => {
    const folder = copyWithout();
    const [weights] = readdirSync(path.join(folder, 'text_encoder_2')).filter((name) =>
      name.endsWith('.safetensors'),
    );
    rmSync(path.join(folder, 'text_encoder_2', weights!));
    await expect(openCheckpoint(folder)).rejects.toThrow(/holds no text_encoder_2\/; /);
    await expect(openCheckpoint(folder, { configFolder: folder })).rejects.toThrow(
      /holds no text_encoder_2\/, and .* has none; /,
    );
    const { parts } = await openCheckpoint(folder, { configFolder: model });
    expect(parts.textEncoders.get('text_encoder_2')!.file.path).toContain(model);
  });

  it('without a tokenizer says that the configurations’ folder can supply it', async () => {
    const folder = copyWithout('tokenizer_2');
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /holds no tokenizer_2\/; name a diffusers folder that has tokenizer_2\/ with `configFolder`/,
    );
    const { parts } = await openCheckpoint(folder, { configFolder: model });
    expect(parts.tokenizers.get('text_encoder_2')!.padId).toBe(
      plain.parts.tokenizers.get('text_encoder_2')!.padId,
    );
  });

  it('says what no prompt at all is; where it does not, zeros', async () => {
    expect(plain.zerosForNoPrompt).toBe(true);
    for (const [said, wanted] of [
      [false, false],
      [undefined, true],
    ] as const) {
      const folder = copyWithout();
      edited(path.join(folder, 'model_index.json'), (json) => {
        json.force_zeros_for_empty_prompt = said;
      });
      expect((await openCheckpoint(folder)).zerosForNoPrompt).toBe(wanted);
    }
  });

  it('whose UNet reads another pooled text is refused', async () => {
    const folder = copyWithout();
    edited(path.join(folder, 'unet', 'config.json'), (json) => {
      json.addition_time_embed_dim = (json.addition_time_embed_dim as number) - 2;
    });
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /projection_class_embeddings_input_dim: expected room for \d+ numbers, .* got \d+ beside the sizes/,
    );
  });

  it('for inpainting is refused by that', async () => {
    const folder = copyWithout();
    edited(path.join(folder, 'unet', 'config.json'), (json) => {
      json.in_channels = 9;
    });
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /in_channels: expected 4 .*, got 9; .*\(inpainting\)/,
    );
  });
});

describe('an SDXL single file', () => {
  it.each([
    ['text_encoder', 'conditioner.embedders.0.transformer.'],
    ['text_encoder_2', 'conditioner.embedders.1.model.'],
  ])('without %s says so, or takes it from the configurations’ folder', async (id, prefix) => {
    const file = await singleWith((name) => !name.startsWith(prefix));
    const lacking = copyWithout(id);
    await expect(openCheckpoint(file, { configFolder: lacking })).rejects.toThrow(
      new RegExp(
        `holds no ${id} \\(${prefix}…\\), and .*model has none; name a diffusers folder that has ${id}/`,
      ),
    );
    const base = await openCheckpoint(file, { configFolder: model });
    expect(base.parts.textEncoders.get(id)!.file.path).toContain(path.join(model, id));
  });

  it('says by its keys that it predicts v, to no signal at all', async () => {
    const file = await singleWith(() => true, ['v_pred', 'ztsnr']);
    const { schedule } = await openCheckpoint(file, { configFolder: model });
    expect(schedule.config).toMatchObject({ prediction_type: 'v_prediction', rescale_betas_zero_snr: true });
    expect(plain.schedule.config).toMatchObject({ prediction_type: 'epsilon' });
    expect(plain.schedule.config.rescale_betas_zero_snr).toBeUndefined();
  });

  it('goes by the published schedule and autoencoder where no folder has its own', async () => {
    const folder = copyWithout('scheduler', 'vae');
    const { schedule } = await openCheckpoint(single, { configFolder: folder });
    expect(schedule.config).toMatchObject({
      _class_name: 'EulerDiscreteScheduler',
      timestep_spacing: 'leading',
      steps_offset: 1,
    });
    expect(sdxl.base.vae.published.scalingFactor).toBe(0.13025);
  });
});

describe('the tokenizer beside a single file', () => {
  const [first, second] = sdxl.base.textEncoders;
  it('pads as its text encoder was trained, whosever folder it lies in', async () => {
    const foreign = goldenPath('goldens/tiny-random/model/tokenizer');
    const plainPad = (await tokenizerBeside(foreign, first!)).padId;
    const other = await tokenizerBeside(foreign, second!);
    expect(other.padId).toBe(other.tokenId('!'));
    expect(plainPad).not.toBe(other.padId);
    expect((await tokenizerBeside(foreign, sd2.base.textEncoders[0]!)).padId).toBe(other.padId);
    // A word that pads is matched as it stands.
    expect(other.encode('!')).toEqual([other.bosId, other.padId, other.eosId]);
    expect((await tokenizerBeside(model, second!)).padId).toBe(
      plain.parts.textEncoders.get('text_encoder_2')!.tokenizer.padId,
    );
    // What its own folder says goes first.
    const folder = copyWithout();
    for (const name of ['tokenizer_config', 'special_tokens_map']) {
      edited(path.join(folder, 'tokenizer_2', `${name}.json`), (json) => {
        json.pad_token = '<|endoftext|>';
      });
    }
    const said = await tokenizerBeside(folder, second!);
    expect(said.padId).toBe(said.eosId);
  });
});

describe('the published configurations', () => {
  it('have the parameters of the published files', () => {
    // Tensors in diffusion_pytorch_model.safetensors of stable-diffusion-xl-base-1.0 and stable-diffusion-2-1.
    expect(unetParameters(sdxl.base.unet.published).size).toBe(1680);
    expect(unetParameters(sd2.base.unet.published).size).toBe(686);
    expect(crossAttentionNames(sdxl.base.unet.published)).toHaveLength(70);
    const widths = sdxl.base.textEncoders.map(({ published }) => published.hiddenSize);
    expect(widths.reduce((a, b) => a + b)).toBe(sdxl.base.unet.published.crossAttentionDim);
  });
});

describe('models of its kind', () => {
  const unet = (width: number) => [
    { name: 'add_embedding.linear_1.weight', shape: [1280, 2816] },
    {
      name: 'down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight',
      shape: [640, width],
    },
  ];
  it('are told by what their UNet reads', () => {
    expect(familyOf(unet(2048)).name).toBe('sdxl');
    expect(familyOf(unet(1280)).title).toBe('SDXL refiner');
    // Of a width that nobody published, the names decide.
    expect(familyOf(unet(64)).name).toBe('sdxl');
  });

  it('that refine are refused by name', async () => {
    const file = scratch('refiner.safetensors');
    const zeros = (name: string, shape: number[]) =>
      float32Tensor(name, shape, new Float32Array(shape.reduce((a, b) => a * b)));
    await writeSafetensors(file, [
      zeros('model.diffusion_model.label_emb.0.0.weight', [4, 2560]),
      zeros('model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight', [4, 1280]),
    ]);
    await expect(openCheckpoint(file, { configFolder: model })).rejects.toThrow(
      /expected a Stable Diffusion 1\.x, Stable Diffusion 2\.x or SDXL model, got SDXL refiner/,
    );
  });
});

describe('a LoRA of another depth', () => {
  it.each([
    [
      'lora_unet_input_blocks_4_1_transformer_blocks_5_attn1_to_q',
      'unet:down_blocks.1.attentions.0.transformer_blocks.5.attn1.to_q',
    ],
    [
      'lora_unet_up_blocks_1_attentions_2_transformer_blocks_3_ff_net_2',
      'unet:up_blocks.1.attentions.2.transformer_blocks.3.ff.net.2',
    ],
    ['lora_te2_text_model_encoder_layers_40_mlp_fc1', 'text_encoder_2:text_model.encoder.layers.40.mlp.fc1'],
    ['lora_unet_input_blocks_4_1_transformer_blocks_05_attn1_to_q', null],
    ['lora_unet_input_blocks_40_1_transformer_blocks_5_attn1_to_q', null],
  ])('has %s', (name, id) => {
    const layer = layerOfName(name, { architecture: 'sdxl' });
    expect(layer && `${layer.component}:${layer.layerName}`).toBe(id);
  });
});

describe('a LoRA of another family', () => {
  const loras = ['kohya_sgm_names.safetensors', 'peft'];
  it.each(loras)('is named with both, before a number is read (%s)', async (name) => {
    const concept = await loadConcept(familiesPath('sdxl', 'lora', name));
    const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
    await expect(conceptDeltas(base, concept)).rejects.toThrow(
      /expected a concept for Stable Diffusion 1\.x as .*, got one for SDXL/,
    );
  });

  it('is named on SDXL too', async () => {
    const concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
    await expect(conceptDeltas(plain, concept)).rejects.toThrow(
      /expected a concept for SDXL as .*, got one for Stable Diffusion 1\.x/,
    );
  });
});
