import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { scaledDelta } from '../../src/adapters/delta.ts';
import { conceptName } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { checkFinite } from '../../src/concepts/finite.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { FormatError, MismatchError } from '../../src/errors.ts';
import { openShardedOrSingle, openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { memoryTensor, readFloat32, renamed } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { multiply } from '../../src/linalg/products.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase } from '../../src/package-root.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';
import { vectorsOf } from '../support/tokens.ts';
import { scratch, tensor, tensorFile } from './support.ts';

const world = path.join(import.meta.dirname, '../../fixtures/tiny-world/concepts');
const toK = 'mid_block.attentions.0.transformer_blocks.0.attn2.to_k';
const kohyaToK = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k';

async function refusal(file: string): Promise<Error> {
  const error: unknown = await loadConcept(file).then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(Error);
  return error as Error;
}

describe('ED-LoRA files', () => {
  it('of the shipped example are read whole', async () => {
    const concept = await loadConcept(path.join(world, 'edlora_smiley.pth'));
    expect(concept.format).toBe('ed-lora');
    expect(conceptName(concept)).toBe('<smiley1> <smiley2>');
    const file = await openTensorFile(concept.path);
    expect(concept.tokens.length + 2 * concept.layers.size).toBe(file.tensors.size);
    const layer = concept.layers.get(`unet:${toK}`)!;
    expect(layer.scale).toBe(1);
    expect(layer.up.shape[1]).toBe(layer.rank);
    await checkFinite(concept);
  });

  it('give the merged weights of the reference', async () => {
    const { alpha } = goldenJson<{ alpha: number }>('goldens/tiny-random/edlora_golden.json');
    const concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
    const golden = await openTensorFile(goldenPath('goldens/tiny-random/edlora_golden.safetensors'));
    const model = (folder: string, stem: string) =>
      openShardedOrSingle(goldenPath('goldens/tiny-random/model', folder), stem);
    const bases = {
      unet: await model('unet', 'diffusion_pytorch_model'),
      text_encoder: await model('text_encoder', 'model'),
    };
    let compared = 0;
    for (const [name, merged] of golden.tensors) {
      const match = /^merged\/(unet|text_encoder)\/(.+)\.weight$/.exec(name);
      if (match === null) continue;
      const layer = concept.layers.get(`${match[1]}:${match[2]}`)!;
      const base = bases[match[1] as keyof typeof bases].tensors.get(`${match[2]}.weight`)!;
      const { up, down } = scaledDelta(layer, alpha);
      const delta = multiply(up, down).data;
      const weight = readFloat32(base).map((value, i) => value + delta[i]!);
      expect(weight, name).toBeAllClose(readFloat32(merged), { rtol: 1e-6 });
      compared++;
    }
    expect(compared).toBeGreaterThan(0);
  });

  it('are read without the params level, without embeddings, and as safetensors', async () => {
    const source = await openTensorFile(path.join(world, 'edlora_bullseye.pth'));
    const flat = [...source.tensors.values()].map((t) => renamed(t, t.name.replace(/^params\./, '')));
    const plain = await loadConcept(path.join(world, 'edlora_bullseye.pth'));
    const again = await loadConcept(await tensorFile(flat));
    expect(again.tokens.map(({ word }) => word).sort()).toEqual(plain.tokens.map(({ word }) => word).sort());
    expect(new Set(again.layers.keys())).toEqual(new Set(plain.layers.keys()));

    const pth = scratch('bare.pth');
    const layers = new Map([
      [`${toK}.lora_down.weight`, torchTensor(tensor('d', [2, 3]))],
      [`${toK}.lora_up.weight`, torchTensor(tensor('u', [4, 2]))],
    ]);
    await writeTorchZip(
      pth,
      new Map([
        ['new_concept_embedding', new Map()],
        ['unet', layers],
      ]),
    );
    const bare = await loadConcept(pth);
    expect([...bare.layers.keys()]).toEqual([`unet:${toK}`]);
    expect(bare.tokens).toEqual([]);
  });

  it('keep the words of a single-row embedding', async () => {
    const concept = await loadConcept(
      await tensorFile([
        tensor('new_concept_embedding.<a>', [1, 3]),
        tensor('new_concept_embedding.<b>', [3]),
      ]),
    );
    expect(concept.tokens.map((token) => vectorsOf(token).shape)).toEqual([
      [1, 3],
      [1, 3],
    ]);
    expect(readFloat32(vectorsOf(concept.tokens[1]!))).toEqual(Float32Array.of(1, 2, 3));
  });

  it.each([
    ['of different widths', [2, 3], [2, 4], /expected \[2, 3\] as that of <a>/],
    ['of different layers', [2, 3], [3, 3], /expected \[2, 3\] as that of <a>/],
    ['with three axes', [2, 3], [2, 3, 1], /one row per cross-attention layer/],
    ['with no rows', [0, 3], [0, 3], /one row per cross-attention layer/],
  ])('refuse embeddings %s', async (_, a, b, message) => {
    const file = await tensorFile([
      tensor('new_concept_embedding.<a>', a),
      tensor('new_concept_embedding.<b>', b),
    ]);
    expect((await refusal(file)).message).toMatch(message);
  });

  it('refuse a list of words that is not theirs', async () => {
    const words = [tensor('new_concept_embedding.<a>', [2, 3]), tensor('new_concept_embedding.<b>', [2, 3])];
    for (const list of ['{', '3', '["<a>"]', '["<a>", "<a>"]', '["<a>", "<c>"]', '["<a>", "<b>", "<b>"]']) {
      const error = await refusal(await tensorFile(words, { 'edlora.tokens': list }));
      expect(error).toBeInstanceOf(FormatError);
      expect(error.message).toContain('edlora.tokens');
    }
  });

  it('refuse values that are no tensors', async () => {
    const pth = scratch('stray.pth');
    await writeTorchZip(pth, new Map([['params', new Map([['unet', new Map([['alpha', 4]])]])]]));
    expect((await refusal(pth)).message).toContain('params.unet.alpha (a number)');
  });
});

describe('LoRA files', () => {
  const pair = (up: string, down: string) => [tensor(up, [4, 2]), tensor(down, [2, 3])];

  it.each([
    ['kohya', pair(`${kohyaToK}.lora_up.weight`, `${kohyaToK}.lora_down.weight`)],
    ['diffusers', pair(`unet.${toK}.lora_B.weight`, `unet.${toK}.lora_A.weight`)],
    ['diffusers', pair(`unet.${toK}.lora.up.weight`, `unet.${toK}.lora.down.weight`)],
    [
      'diffusers',
      pair(
        `${toK.replace('to_k', 'processor.to_k_lora')}.up.weight`,
        `${toK.replace('to_k', 'processor.to_k_lora')}.down.weight`,
      ),
    ],
  ])('in %s names', async (format, tensors) => {
    const concept = await loadConcept(await tensorFile(tensors));
    expect(concept.format).toBe(format);
    expect([...concept.layers.keys()]).toEqual([`unet:${toK}`]);
    expect(concept.layers.get(`unet:${toK}`)).toMatchObject({ rank: 2, scale: 1 });
  });

  it("in diffusers' text encoder names", async () => {
    const layer = 'text_encoder.text_model.encoder.layers.0.self_attn';
    const concept = await loadConcept(
      await tensorFile([
        ...pair(
          `${layer}.q_proj.lora_linear_layer.up.weight`,
          `${layer}.q_proj.lora_linear_layer.down.weight`,
        ),
        ...pair(`${layer}.to_out_lora.up.weight`, `${layer}.to_out_lora.down.weight`),
      ]),
    );
    expect([...concept.layers.values()].map(({ layerName }) => layerName).sort()).toEqual([
      'text_model.encoder.layers.0.self_attn.out_proj',
      'text_model.encoder.layers.0.self_attn.q_proj',
    ]);
  });

  it("scale by kohya's alpha over rank, not at all without one", async () => {
    const tensors = pair(`${kohyaToK}.lora_up.weight`, `${kohyaToK}.lora_down.weight`);
    const concept = await loadConcept(await tensorFile([...tensors, tensor(`${kohyaToK}.alpha`, [], [0.5])]));
    const layer = concept.layers.get(`unet:${toK}`)!;
    expect(layer.scale).toBe(0.25);
    // up = [[1,2],[3,4],[5,6],[7,8]], down = [[1,2,3],[4,5,6]]: first row of the product is 9, 12, 15.
    const { up, down } = scaledDelta(layer, 2);
    expect([...multiply(up, down).data.slice(0, 3)]).toEqual([4.5, 6, 7.5]);
  });

  it("scale by diffusers' adapter metadata", async () => {
    const tensors = pair(`unet.${toK}.lora_B.weight`, `unet.${toK}.lora_A.weight`);
    const metadata = { lora_adapter_metadata: JSON.stringify({ 'unet.r': 2, 'unet.lora_alpha': 6 }) };
    const concept = await loadConcept(await tensorFile(tensors, metadata));
    expect(concept.layers.get(`unet:${toK}`)!.scale).toBe(3);
    for (const broken of ['{', '3', '{"unet.r": 5, "unet.lora_alpha": 1}', '{"unet.lora_alpha": 1}']) {
      const file = await tensorFile(tensors, { lora_adapter_metadata: broken });
      expect(await refusal(file)).toBeInstanceOf(FormatError);
    }
  });

  it('take 3×3 and 1×1 convolutions', async () => {
    const conv = 'lora_unet_mid_block_resnets_0_conv1';
    const concept = await loadConcept(
      await tensorFile([
        tensor(`${conv}.lora_up.weight`, [4, 2, 1, 1]),
        tensor(`${conv}.lora_down.weight`, [2, 5, 3, 3]),
      ]),
    );
    const { up, down } = scaledDelta(concept.layers.get('unet:mid_block.resnets.0.conv1')!);
    expect([up.rows, up.cols, down.rows, down.cols]).toEqual([4, 2, 2, 45]);
  });
});

describe('PEFT adapters', () => {
  const weights = [
    tensor(`base_model.model.${toK}.lora_B.weight`, [4, 2]),
    tensor(`base_model.model.${toK}.lora_A.weight`, [2, 3]),
  ];
  const config = { peft_type: 'LORA', r: 2, lora_alpha: 4 };

  async function adapter(folder: string, settings: unknown = config): Promise<string> {
    mkdirSync(folder, { recursive: true });
    await writeSafetensors(path.join(folder, 'adapter_model.safetensors'), weights);
    if (settings !== null) writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify(settings));
    return folder;
  }

  it('as folder, as file, and one per network', async () => {
    const folder = await adapter(scratch('one'));
    for (const place of [folder, path.join(folder, 'adapter_model.safetensors')]) {
      expect((await loadConcept(place)).layers.get(`unet:${toK}`)?.scale).toBe(2);
    }
    const parent = scratch('two');
    await adapter(path.join(parent, 'unet'));
    expect((await loadConcept(parent)).layers.size).toBe(1);
    await adapter(path.join(parent, 'text_encoder'));
    expect((await refusal(parent)).message).toMatch(/in two of its adapters/);
  });

  it('need their configuration, and one that fits', async () => {
    const bare = path.join(await adapter(scratch('bare'), null), 'adapter_model.safetensors');
    expect((await refusal(bare)).message).toMatch(/no adapter_config.json beside it/);
    expect((await refusal(await adapter(scratch('rank'), { ...config, r: 3 }))).message).toMatch(
      /expected rank 3/,
    );
    expect((await refusal(await adapter(scratch('list'), []))).message).toMatch(/expected a JSON object/);
    const empty = scratch('empty');
    mkdirSync(empty);
    expect((await refusal(empty)).message).toMatch(/expected an adapter file, or a folder with/);
  });

  it('are found under the names of diffusers folders too', async () => {
    const folder = scratch('folder');
    mkdirSync(folder);
    await writeSafetensors(path.join(folder, 'pytorch_lora_weights.safetensors'), [
      tensor(`unet.${toK}.lora_B.weight`, [4, 2]),
      tensor(`unet.${toK}.lora_A.weight`, [2, 3]),
    ]);
    expect((await loadConcept(folder)).format).toBe('diffusers');
  });
});

describe('refusals', () => {
  const up = tensor(`${kohyaToK}.lora_up.weight`, [4, 2]);
  const down = tensor(`${kohyaToK}.lora_down.weight`, [2, 3]);
  const alpha = (value: number) => tensor(`${kohyaToK}.alpha`, [], [value]);

  it.each([
    ['half a pair', [up], /lora_up\.weight without lora_down\.weight/],
    ['the other half', [down], /lora_down\.weight without lora_up\.weight/],
    ['alpha alone', [alpha(1)], /alpha without factors/],
    ['alpha 0', [up, down, alpha(0)], /scaled by 0: the layer changes nothing/],
    ['alpha NaN', [up, down, alpha(Number.NaN)], /got NaN/],
    ['two alphas', [up, down, tensor(`${kohyaToK}.alpha`, [2])], /got shape \[2\]/],
    ['rank 0', [tensor(up.name, [4, 0]), tensor(down.name, [0, 3])], /rank of at least 1/],
    ['ranks that differ', [tensor(up.name, [4, 3]), down], /expected up \[outputs, 2\]/],
    ['a vector', [up, tensor(down.name, [2])], /expected a down factor/],
    ['an up factor with a kernel', [tensor(up.name, [4, 2, 3, 3]), down], /expected up \[outputs, 2\]/],
    ['no inputs', [up, tensor(down.name, [2, 0])], /no empty axis/],
    ['whole numbers', [memoryTensor(up.name, 'I8', [4, 2], new Uint8Array(8)), down], /floating point/],
    ['nothing', [], /no tensors/],
    ['an unknown layer', [up, down, tensor('lora_unet_somewhere.alpha', [])], /lora_unet_somewhere\.alpha/],
    [
      'LoHa',
      ['w1_a', 'w1_b', 'w2_a', 'w2_b'].map((part) => tensor(`${kohyaToK}.hada_${part}`, [2, 2])),
      /\(LyCORIS LoHa; .*: `convertFile` \S+ \S+-lora\.safetensors `format: kohya` `rank: 16`\)/,
    ],
    [
      'DoRA',
      [up, down, tensor(`${kohyaToK}.dora_scale`, [4, 1])],
      /\(DoRA; .* `format: kohya` `base: <model>` `rank: 16`\)/,
    ],
    ['a checkpoint', [tensor('model.diffusion_model.out.2.bias', [4])], /a whole checkpoint/],
    [
      'two spellings of one layer',
      ['lora_A.weight', 'lora.down.weight', 'lora_B.weight'].map((end) =>
        tensor(`unet.${toK}.${end}`, end === 'lora_B.weight' ? [4, 2] : [2, 3]),
      ),
      /are both lora_down\.weight of/,
    ],
    [
      'two names of one text encoder layer',
      ['te', 'te1'].map((te) =>
        tensor(`lora_${te}_text_model_encoder_layers_0_mlp_fc1.lora_up.weight`, [4, 2]),
      ),
      /are both lora_up\.weight of/,
    ],
  ])('%s', async (_, tensors, message) => {
    const error = await refusal(await tensorFile(tensors));
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
  });

  it('say how to go on without what no LoRA can hold', async () => {
    const norm = tensor('lora_unet_down_blocks_0_attentions_0_norm.diff', [4]);
    const { message } = await refusal(await tensorFile([up, down, norm]));
    expect(message).toMatch(
      /a normalisation layer; .*`convertFile` .*-lora\.safetensors `format: kohya` `drop`/,
    );
    expect((await refusal(await tensorFile([up, down, alpha(0)]))).message).not.toContain('convertFile');
  });

  it('list every unmatched name, up to a point', async () => {
    const names = Array.from({ length: 50 }, (_, i) => `lora_unet_nowhere_${i}.alpha`);
    const { message } = await refusal(await tensorFile(names.map((name) => tensor(name, []))));
    expect(message).toContain('50 entries are of no known layer');
    expect(message).toContain('and 30 more');
    expect(message.split('\n')).toHaveLength(22);
  });

  it.each([
    ['lokr of the full rank', ['lokr_w1', 'lokr_w2'], ' `rank: 16`'],
    ['a LoHa', ['hada_w1_a', 'hada_w1_b', 'hada_w2_a', 'hada_w2_b'], ''],
    ['a LoHa with a bias', ['hada_w1_a', 'hada_w1_b', 'hada_w2_a', 'hada_w2_b', 'diff_b'], ' `drop`'],
  ])('advise a conversion of %s that works', async (_, parts, more) => {
    const layer = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q';
    const shapes: Record<string, number[]> = { lokr_w1: [2, 2], lokr_w2: [4, 4], diff_b: [8] };
    const shapeOf = (part: string): number[] => shapes[part] ?? (part.endsWith('_a') ? [8, 1] : [1, 8]);
    const file = await tensorFile(parts.map((part) => tensor(`${layer}.${part}`, shapeOf(part))));
    const { message } = await refusal(file);
    expect(message).toMatch(new RegExp(`-lora\\.safetensors \`format: kohya\`${more}\\):`));
    const out = path.join(path.dirname(file), 'out.safetensors');
    const job = { input: file, out, format: 'kohya', rank: more.includes('rank') ? 16 : null } as const;
    expect((await convertFile({ ...job, drop: more.includes('drop') })).layers).toBe(1);
  });

  it('name other architectures', async () => {
    const cases: [string, number[], string][] = [
      ['lora_unet_double_blocks_0_img_mlp_0.lora_down.weight', [2, 3], 'Flux'],
    ];
    for (const [name, shape, architecture] of cases) {
      const other = tensor(name.replace('lora_down', 'lora_up'), [4, 2]);
      const error = await refusal(await tensorFile([other, tensor(name, shape)]));
      expect(error).toBeInstanceOf(MismatchError);
      expect(error.message).toContain(`got one for ${architecture}`);
    }
    const sdxl = 'lora_te2_text_model_encoder_layers_0_mlp_fc1';
    const file = await tensorFile([
      tensor(`${sdxl}.lora_up.weight`, [4, 2]),
      tensor(`${sdxl}.lora_down.weight`, [2, 3]),
    ]);
    const error = await conceptDeltas(await openCheckpoint(defaultBase()), await loadConcept(file)).catch(
      (reason: Error) => reason,
    );
    expect(error).toBeInstanceOf(MismatchError);
    expect((error as Error).message).toMatch(
      /expected a concept for Stable Diffusion 1\.x as .*model, got one for SDXL/,
    );
  });

  it('missing files', async () => {
    expect((await refusal(scratch('nothing.pth'))).message).toMatch(/no such file/);
  });

  it('numbers that are not finite, when asked to look', async () => {
    const bad = tensor(up.name, [4, 2], [1, 2, Number.NaN, 4, 5, Number.POSITIVE_INFINITY, 7, 8]);
    const concept = await loadConcept(await tensorFile([bad, down]));
    await expect(checkFinite(concept)).rejects.toThrow(FormatError);
    await expect(checkFinite(concept)).rejects.toThrow(
      `${up.name}: expected finite numbers, got NaN or infinity; training`,
    );
  });
});
