/** LoRAs of families that are not drawn: every job that needs no network works with them, by their own names. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { inspect } from '../../src/concepts/inspect.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { describeAdapter } from '../../src/merging/adapter-report.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { lintFiles } from '../../src/merging/jobs/lint-files.ts';
import { type MergeFilesOptions, mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import { verifyFile } from '../../src/merging/verify.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { relativeError } from '../support/close.ts';
import { goldenPath } from '../support/goldens.ts';
import { denseOf, scratch } from './random-adapters.ts';

/** Ends of a layer's factors. */
const KOHYA = ['.lora_up.weight', '.lora_down.weight'] as const;
const LETTERS = ['.lora_B.weight', '.lora_A.weight'] as const;

interface Sketch {
  readonly seed?: number;
  readonly rank?: number;
  readonly ends?: readonly [up: string, down: string];
  /** `null`: none is stored. */
  readonly alpha?: number | null;
  readonly header?: Record<string, string>;
  readonly size?: readonly [m: number, n: number];
}

async function fileOf(
  layers: readonly string[],
  sketch: Sketch = {},
  name = 'a.safetensors',
): Promise<string> {
  const file = scratch(name);
  await writeSafetensors(file, tensorsOf(layers, sketch), sketch.header);
  return file;
}

function tensorsOf(layers: readonly string[], sketch: Sketch = {}): RawTensor[] {
  const { seed = 1, rank = 2, ends = KOHYA, alpha = null, size: [m, n] = [12, 10] } = sketch;
  const generator = new TorchGenerator(seed);
  const draw = (key: string, shape: number[]) =>
    float32Tensor(key, shape, Float32Array.from(generator.randn(shape[0]! * shape[1]!)));
  return layers.flatMap((layer) => [
    draw(layer + ends[0], [m, rank]),
    draw(layer + ends[1], [rank, n]),
    ...(alpha === null ? [] : [float32Tensor(`${layer}.alpha`, [], Float32Array.of(alpha))]),
  ]);
}

const namesOf = async (file: string): Promise<string[]> =>
  [...(await openTensorFile(file)).tensors.keys()].sort();

const fluxPaths = [
  'double_blocks.0.img_attn.qkv',
  'double_blocks.0.txt_mlp.0',
  'single_blocks.37.linear1',
  'final_layer.linear',
];
const kohyaFlux = [
  ...fluxPaths.map((own) => `lora_unet_${own.replaceAll('.', '_')}`),
  'lora_te1_text_model_encoder_layers_0_self_attn_q_proj',
  'lora_te2_encoder_block_0_layer_0_SelfAttention_q',
];

/** Files of several families, each as its programs write it. */
const FILES: readonly (readonly [what: string, layers: readonly string[], sketch: Sketch, family: string])[] =
  [
    ['Flux by kohya', kohyaFlux, { alpha: 1 }, 'flux'],
    [
      'Flux by diffusers',
      [
        'transformer.single_transformer_blocks.0.attn.to_q',
        'transformer.transformer_blocks.0.attn.add_k_proj',
        'text_encoder.text_model.encoder.layers.0.self_attn.q_proj',
      ],
      { ends: LETTERS },
      'flux',
    ],
    [
      "double blocks alone by diffusers, which are Flux', SD 3's and Qwen-Image's",
      ['transformer.transformer_blocks.1.attn.to_q'],
      { ends: LETTERS },
      'other',
    ],
    ['Flux by ComfyUI', fluxPaths.map((own) => `diffusion_model.${own}`), { ends: LETTERS }, 'flux'],
    [
      'Flux by X-Labs',
      ['double_blocks.0.processor.qkv_lora1', 'double_blocks.0.processor.qkv_lora2'],
      { ends: ['.up.weight', '.down.weight'] },
      'flux',
    ],
    ['SD 3 by kohya', ['lora_unet_joint_blocks_0_x_block_attn_qkv'], { alpha: 4 }, 'sd3'],
    ['Qwen-Image by musubi', ['lora_unet_transformer_blocks_31_attn_to_q'], { alpha: 1 }, 'other'],
    [
      'Qwen-Image as Lightning has it',
      ['transformer_blocks.31.attn.to_q'],
      { ends: ['.lora_up.weight', '.lora_down.weight'], alpha: 8 },
      'other',
    ],
    [
      'Z-Image',
      ['diffusion_model.layers.0.attention.to_q', 'diffusion_model.layers.0.feed_forward.w1'],
      { ends: LETTERS },
      'lumina',
    ],
    [
      'a video model',
      ['blocks.0.self_attn.q', 'blocks.0.ffn.0'],
      { ends: ['.lora_B.default.weight', '.lora_A.default.weight'] },
      'wan',
    ],
    [
      'a model nobody has made',
      ['lora_unet_spiral_3_arm_twist', 'lora_te_reader_0_look'],
      { alpha: 3 },
      'other',
    ],
  ];

describe.each(FILES)('a LoRA for %s', (_, layers, sketch, family) => {
  it('is inspected, and its numbers are the files’', async () => {
    const file = await fileOf(layers, { ...sketch, rank: 4 });
    const adapter = await loadAdapter(file);
    expect(adapter.architecture).toBe(family);
    expect(adapter.layers.size).toBe(layers.length);
    expect([...adapter.layers.values()].map(({ own }) => own!.name).sort()).toEqual(layers.toSorted());
    const scale = sketch.alpha == null ? 1 : sketch.alpha / 4;
    for (const layer of adapter.layers.values()) expect([layer.rank, layer.scale]).toEqual([4, scale]);
    const { kind, description, layers: ranks } = await inspect(file);
    expect(kind).toBe('lora');
    expect(description).toMatch(/^LoRA for /);
    const { component } = [...adapter.layers.values()][0]!;
    expect(ranks![component]![4]).toBeGreaterThan(0);
    const { blocks } = await describeAdapter(adapter);
    expect(blocks.reduce((sum, block) => sum + block.layers, 0)).toBe(layers.length);
  });

  it('keeps every name when only its numbers change', async () => {
    const file = await fileOf(layers, sketch);
    const out = scratch('half.safetensors');
    await convertFile({ input: file, out, format: 'own', dtype: 'F16' });
    expect(await namesOf(out)).toEqual(await namesOf(file));
    const [before, after] = [await loadAdapter(file), await loadAdapter(out)];
    for (const [id, layer] of before.layers) {
      expect(relativeError(denseOf(after.layers.get(id)!), denseOf(layer))).toBeLessThan(2e-3);
    }
    expect((await verifyFile(out, { rebuild: true })).ok).toBe(true);
  });

  it('is merged with another of other ranks to the sum of both, under its own names', async () => {
    const a = await fileOf(layers, { ...sketch, rank: 2 });
    const b = await fileOf(layers.slice(0, 1), { ...sketch, rank: 3, seed: 2 });
    const out = scratch('sum.safetensors');
    await mergeFiles({ inputs: [part(a, 0.5), part(b, -2)], out });
    expect((await namesOf(out)).filter((name) => !name.endsWith('.alpha'))).toEqual(
      (await namesOf(a)).filter((name) => !name.endsWith('.alpha')),
    );
    const [first, second, sum] = [await loadAdapter(a), await loadAdapter(b), await loadAdapter(out)];
    for (const [id, layer] of first.layers) {
      const other = second.layers.get(id);
      const own = denseOf(layer);
      const more = other === undefined ? null : denseOf(other);
      const expected = own.map((value, i) => 0.5 * value - 2 * (more?.[i] ?? 0));
      expect(relativeError(denseOf(sum.layers.get(id)!), expected)).toBeLessThan(1e-6);
    }
    expect((await verifyFile(out, { rebuild: true })).ok).toBe(true);
  });
});

const part = (file: string, strength = 1): MergeFilesOptions['inputs'][number] => ({
  path: file,
  strength,
  textEncoderStrength: null,
  blockWeights: null,
});

describe('adapters of other families', () => {
  it('are resized and linted', async () => {
    const file = await fileOf(kohyaFlux, { rank: 4, alpha: 2 });
    const out = scratch('small.safetensors');
    const { resized } = await resizeFile({ input: file, out, rule: { kind: 'rank' }, rank: 2 });
    expect(resized.map(({ rank }) => rank)).toEqual(kohyaFlux.map(() => 2));
    expect(await namesOf(out)).toEqual(await namesOf(file));
    const [report] = await lintFiles({ inputs: [part(file), part(out)], tools: ['peft-svd'] });
    expect(report!.layers).toHaveLength(kohyaFlux.length);
  });

  it('agree where spellings differ in prefix and dots alone; the first one’s names are written', async () => {
    const spellings = [
      await fileOf(
        fluxPaths.map((own) => `diffusion_model.${own}`),
        { ends: LETTERS, rank: 1 },
      ),
      await fileOf(kohyaFlux, { rank: 3, seed: 2, alpha: 3 }),
    ];
    const out = scratch('sum.safetensors');
    await mergeFiles({ inputs: spellings.map((file) => part(file)), out });
    const names = await namesOf(out);
    expect(names).toContain('diffusion_model.final_layer.linear.lora_A.weight');
    expect(names).toHaveLength(2 * fluxPaths.length + 3 * 2);
    const [a, b, sum] = [
      await loadAdapter(spellings[0]!),
      await loadAdapter(spellings[1]!),
      await loadAdapter(out),
    ];
    for (const [id, layer] of a.layers) {
      const more = denseOf(b.layers.get(id)!);
      const expected = denseOf(layer).map((value, i) => value + more[i]!);
      expect(relativeError(denseOf(sum.layers.get(id)!), expected)).toBeLessThan(1e-6);
    }
  });

  it('are all called as the first file calls its layers, where its dots are known', async () => {
    const ids = ['x.0.a', 'x.0.b'];
    const spellings = {
      comfy: await fileOf([`diffusion_model.${ids[0]}`], { ends: LETTERS }),
      bare: await fileOf(ids, { seed: 2, alpha: 1 }),
      kohya: await fileOf(
        ids.map((own) => `lora_unet_${own.replaceAll('.', '_')}`),
        { seed: 3, alpha: 1 },
      ),
    };
    const merged = async (...files: string[]): Promise<string[]> => {
      const out = scratch('sum.safetensors');
      await mergeFiles({ inputs: files.map((file) => part(file)), out });
      return (await namesOf(out)).filter((name) => !name.endsWith('alpha'));
    };
    expect(await merged(spellings.comfy, spellings.bare)).toEqual(
      ids.flatMap((own) => [`diffusion_model.${own}.lora_A.weight`, `diffusion_model.${own}.lora_B.weight`]),
    );
    const short = await fileOf(['lora_unet_x_0_a'], { alpha: 1 });
    expect(await merged(short, spellings.bare)).toEqual(
      ['a', 'b'].flatMap((own) => [
        `lora_unet_x_0_${own}.lora_down.weight`,
        `lora_unet_x_0_${own}.lora_up.weight`,
      ]),
    );
    expect(await merged(spellings.comfy, spellings.kohya)).toContain('lora_unet_x_0_b.lora_up.weight');
  });

  it('keep the suffixes of every layer where one file mixes them', async () => {
    const file = scratch('mixed.safetensors');
    await writeSafetensors(file, [
      ...tensorsOf(['diffusion_model.x.0.a'], { ends: LETTERS, alpha: 1 }),
      ...tensorsOf(['diffusion_model.x.0.b'], { ends: KOHYA, alpha: 1 }),
      ...tensorsOf(['lora_unet_x_0_c'], { ends: ['.lora_B.weight', '.lora_A.weight'] }),
      ...tensorsOf(['lora_unet_x_0_d'], { ends: ['.lora.up.weight', '.lora.down.weight'] }),
    ]);
    const out = scratch('half.safetensors');
    await convertFile({ input: file, out, format: 'own', dtype: 'BF16' });
    expect(await namesOf(out)).toEqual(await namesOf(file));
  });

  it.each([
    ['kohya', 'lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight'],
    ['lycoris', 'lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight'],
    ['diffusers', 'diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight'],
  ] as const)('are written as %s where their names say enough', async (format, name) => {
    const dotted = await fileOf(
      fluxPaths.map((own) => `diffusion_model.${own}`),
      { alpha: 1 },
    );
    const out = scratch('out.safetensors');
    await convertFile({ input: dotted, out, format });
    expect(await namesOf(out)).toContain(name);
    const [before, after] = [await loadAdapter(dotted), await loadAdapter(out)];
    for (const [id, layer] of before.layers) {
      expect(relativeError(denseOf(after.layers.get(id)!), denseOf(layer))).toBeLessThan(1e-6);
    }
  });

  it('are not written where a name does not say where its dots were, nor in schemes of other families', async () => {
    const file = await fileOf(kohyaFlux);
    for (const format of ['diffusers', 'peft', 'ed-lora', 'cloneofsimo', 'diffusers-lora'] as const) {
      await expect(convertFile({ input: file, out: scratch('out.safetensors'), format })).rejects.toThrow(
        /6 entries cannot be held/,
      );
    }
  });

  it('go through PEFT’s folders with their scale', async () => {
    const folder = path.dirname(scratch('x'));
    const layers = ['base_model.model.transformer_blocks.0.attn.to_q', 'base_model.model.proj_out'];
    await writeSafetensors(
      path.join(folder, 'adapter_model.safetensors'),
      tensorsOf(layers, { ends: LETTERS }),
    );
    const config = { peft_type: 'LORA', r: 2, lora_alpha: 4, alpha_pattern: { '^proj_out': 1 } };
    writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify(config));
    expect((await inspect(folder)).kind).toBe('lora');
    const before = await loadAdapter(folder);
    expect([...before.layers.values()].map(({ scale }) => scale).sort()).toEqual([0.5, 2]);
    const out = scratch('merged');
    await mergeFiles({ inputs: [part(folder), part(folder, 0.5)], out });
    const after = await loadAdapter(out);
    expect(after.scheme).toBe('peft');
    const single = scratch('single.safetensors');
    await convertFile({ input: folder, out: single, format: 'diffusers' });
    expect(await namesOf(single)).toContain('transformer.proj_out.lora_A.weight');
    const loose = await loadAdapter(single);
    for (const [id, layer] of before.layers) {
      const own = denseOf(layer);
      expect(
        relativeError(
          denseOf(after.layers.get(id)!),
          own.map((value) => 1.5 * value),
        ),
      ).toBeLessThan(1e-6);
      expect(relativeError(denseOf(loose.layers.get(id)!), own)).toBeLessThan(1e-6);
    }
  });

  it('go into PEFT’s folders with their text encoders', async () => {
    const layers = [
      'transformer.blocks.0.attn.to_q',
      'text_encoder.text_model.encoder.layers.0.self_attn.q_proj',
      'text_encoder_2.encoder.block.0.layer.0.SelfAttention.q',
    ];
    const file = await fileOf(layers, { ends: LETTERS });
    const out = scratch('peft');
    await convertFile({ input: file, out, format: 'peft' });
    const [before, after] = [await loadAdapter(file), await loadAdapter(out)];
    expect([...after.layers.keys()].sort()).toEqual([...before.layers.keys()].sort());
    expect([...after.layers.keys()].filter((id) => id.startsWith('encoder:te'))).toHaveLength(2);
    const single = scratch('single.safetensors');
    await convertFile({ input: out, out: single, format: 'own' });
    expect(await namesOf(single)).toEqual(await namesOf(file));
    const again = scratch('again.safetensors');
    await convertFile({ input: out, out: again, format: 'kohya' });
    expect(await namesOf(again)).toContain('lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight');
  });

  it('say their ranks in diffusers’ header where they differ', async () => {
    const layers = ['to_q', 'to_k', 'to_v'].map((own) => `transformer.transformer_blocks.0.attn.${own}`);
    const files = [
      await fileOf(layers, { ends: LETTERS }),
      await fileOf(layers.slice(1, 2), { ends: LETTERS, rank: 3 }),
    ];
    for (const format of ['own', 'diffusers'] as const) {
      const out = scratch('sum.safetensors');
      await mergeFiles({ inputs: files.map((file) => part(file)), out, format });
      const told = JSON.parse((await openTensorFile(out)).metadata.get('lora_adapter_metadata')!) as object;
      expect(told).toMatchObject({
        'transformer.r': 2,
        'transformer.lora_alpha': 2,
        'transformer.rank_pattern': { 'transformer_blocks.0.attn.to_k': 5 },
        'transformer.alpha_pattern': { 'transformer_blocks.0.attn.to_k': 5 },
      });
      expect([...(await loadAdapter(out)).layers.values()].map(({ scale }) => scale)).toEqual([1, 1, 1]);
    }
    const comfy = await fileOf(['diffusion_model.x.0.a', 'diffusion_model.x.0.b'], { ends: LETTERS });
    const out = scratch('sum.safetensors');
    await mergeFiles({ inputs: [part(comfy), part(await fileOf(['x.0.a']))], out, format: 'diffusers' });
    expect((await openTensorFile(out)).metadata.has('lora_adapter_metadata')).toBe(false);
  });

  it('take their scale from diffusers’ header', async () => {
    const header = {
      lora_adapter_metadata: JSON.stringify({
        'transformer.r': 2,
        'transformer.lora_alpha': 8,
        'transformer.alpha_pattern': { 'transformer_blocks.0.attn.to_k': 2 },
      }),
    };
    const layers = ['to_q', 'to_k'].map((own) => `transformer.transformer_blocks.0.attn.${own}`);
    const { layers: read } = await loadAdapter(await fileOf(layers, { ends: LETTERS, header }));
    expect([...read.values()].map(({ scale }) => scale).sort()).toEqual([1, 4]);
  });

  it('of other kinds stay what they are, or become LoRA', async () => {
    const file = scratch('lokr.safetensors');
    const matrix = (key: string, shape: number[]) =>
      float32Tensor(
        key,
        shape,
        Float32Array.from(new TorchGenerator(3).randn(shape.reduce((a, b) => a * b, 1))),
      );
    await writeSafetensors(file, [
      matrix('diffusion_model.x.0.a.lokr_w1', [3, 2]),
      matrix('diffusion_model.x.0.a.lokr_w2_a', [4, 2]),
      matrix('diffusion_model.x.0.a.lokr_w2_b', [2, 5]),
      float32Tensor('diffusion_model.x.0.a.alpha', [], Float32Array.of(1)),
      matrix('diffusion_model.x.0.b.diff', [6, 5]),
      matrix('diffusion_model.x.0.c.lora_A.weight', [2, 5]),
      matrix('diffusion_model.x.0.c.lora_B.weight', [6, 2]),
      matrix('diffusion_model.x.0.c.lora_magnitude_vector', [6]),
    ]);
    const before = await loadAdapter(file);
    expect([...before.layers.values()].map(({ kind, doraScale }) => [kind, doraScale?.shape]).sort()).toEqual(
      [
        ['diff', undefined],
        ['lokr', undefined],
        ['lora', [6, 1]],
      ],
    );
    const own = scratch('own.safetensors');
    await convertFile({ input: file, out: own, format: 'own', dtype: 'F32' });
    expect(await namesOf(own)).toEqual(await namesOf(file));
    const merged = scratch('merged.safetensors');
    await expect(mergeFiles({ inputs: [part(file)], out: merged })).rejects.toThrow('name the base model');
  });

  it('say what of a file no LoRA can hold, and go on without it', async () => {
    const file = scratch('more.safetensors');
    await writeSafetensors(file, [
      ...tensorsOf(['diffusion_model.blocks.0.q'], { ends: LETTERS }),
      float32Tensor('diffusion_model.blocks.0.norm_k.diff', [4], new Float32Array(4)),
      float32Tensor('diffusion_model.blocks.0.k.diff_b', [4], new Float32Array(4)),
      float32Tensor('diffusion_model.blocks.0.q.lora_B.bias', [12], new Float32Array(12)),
      float32Tensor('strange', [4], new Float32Array(4)),
    ]);
    const job = { input: file, out: scratch('out.safetensors'), format: 'own' } as const;
    await expect(convertFile(job)).rejects.toThrow(/4 entries cannot be held/);
    expect((await convertFile({ ...job, drop: true })).dropped).toHaveLength(4);
    expect(await namesOf(job.out)).toEqual([
      'diffusion_model.blocks.0.q.lora_A.weight',
      'diffusion_model.blocks.0.q.lora_B.weight',
    ]);
  });

  it('change convolutions over lines, pictures and films', async () => {
    const file = scratch('convolutions.safetensors');
    const kernels = [[3], [3, 3], [1, 2, 2]];
    const generator = new TorchGenerator(5);
    const draw = (key: string, shape: number[]) =>
      float32Tensor(key, shape, Float32Array.from(generator.randn(shape.reduce((a, b) => a * b, 1))));
    await writeSafetensors(
      file,
      kernels.flatMap((kernel, i) => [
        draw(`lora_unet_patch_${i}_conv.lora_up.weight`, [6, 2, ...kernel.map(() => 1)]),
        draw(`lora_unet_patch_${i}_conv.lora_down.weight`, [2, 4, ...kernel]),
      ]),
    );
    const [sum, small] = [scratch('sum.safetensors'), scratch('small.safetensors')];
    await mergeFiles({ inputs: [part(file), part(file)], out: sum });
    await resizeFile({ input: sum, out: small, rule: { kind: 'rank' }, rank: 2 });
    const [before, after] = [await loadAdapter(file), await loadAdapter(small)];
    expect([...after.layers.values()].map(({ kernel }) => kernel)).toEqual(kernels);
    for (const [id, layer] of before.layers) {
      const expected = denseOf(layer).map((value) => 2 * value);
      expect(relativeError(denseOf(after.layers.get(id)!), expected)).toBeLessThan(1e-5);
    }
  });

  it('are none of SDXL or SD 2.x because an attention has their width', async () => {
    for (const width of [768, 1024, 2048]) {
      const file = await fileOf(['transformer.transformer_blocks.0.attn2.to_k'], {
        ends: LETTERS,
        size: [8, width],
      });
      expect((await loadAdapter(file)).architecture).toBe('other');
    }
  });

  it('say where a number is not finite', async () => {
    const file = scratch('nan.safetensors');
    const tensors = tensorsOf(['blocks.0.q']);
    await writeSafetensors(file, [
      tensors[0]!,
      float32Tensor(tensors[1]!.name, [2, 10], new Float32Array(20).fill(Number.NaN)),
    ]);
    expect((await inspect(file)).notes).toEqual([
      expect.stringContaining('blocks.0.q.lora_down.weight: expected finite'),
    ]);
  });

  it('keep what all inputs say of their base', async () => {
    const header = { 'modelspec.architecture': 'flux-1-dev/lora', ss_base_model_version: 'flux1' };
    const files = [
      await fileOf(kohyaFlux, { header: { ...header, ss_seed: '1' } }),
      await fileOf(kohyaFlux, { header, seed: 2 }),
    ];
    const out = scratch('sum.safetensors');
    await mergeFiles({ inputs: files.map((file) => part(file)), out, format: 'kohya' });
    const { metadata } = await openTensorFile(out);
    expect(Object.fromEntries(metadata)).toMatchObject(header);
    const bare = scratch('bare.safetensors');
    await mergeFiles({
      inputs: [part(await fileOf(kohyaFlux)), part(files[0]!)],
      out: bare,
      format: 'kohya',
    });
    const told = [...(await openTensorFile(bare)).metadata.keys()];
    expect(told.filter((key) => /architecture|base_model|ss_v2/.test(key))).toEqual([]);
  });
});

describe('inputs of one merge', () => {
  const qwen = ['transformer_blocks.0.attn.to_q', 'transformer_blocks.59.img_mlp.net.0.proj'];
  const cases: readonly (readonly [string, () => Promise<string>, () => Promise<string>, RegExp])[] = [
    [
      'a listed family and another',
      () => fileOf(kohyaFlux),
      () => sd1(),
      /expected an adapter for Flux.*got one for Stable Diffusion 1/,
    ],
    [
      'another and a listed family',
      () => sd1(),
      () => fileOf(['spiral.0.arm']),
      /expected an adapter for Stable Diffusion 1.*got one for a family that edlora does not draw/,
    ],
    [
      'two families with signs',
      () => fileOf(kohyaFlux),
      () => fileOf(['lora_unet_joint_blocks_0_x_block_mlp_fc1']),
      /got one for SD 3/,
    ],
    [
      'Flux and Qwen-Image, whose attentions are called alike',
      () =>
        fileOf([
          'transformer.single_transformer_blocks.0.attn.to_q',
          'transformer.transformer_blocks.0.attn.to_q',
        ]),
      () => fileOf(['transformer_blocks.0.attn.to_q', 'transformer_blocks.59.attn.to_q']),
      /expected an adapter for Flux.*, got one for Qwen-Image/,
    ],
    [
      "Flux in the original's layers and in diffusers'",
      () => fileOf(kohyaFlux),
      () => fileOf(['transformer.single_transformer_blocks.0.attn.to_q']),
      /no layer of the same name/,
    ],
    [
      'two that share a text encoder alone',
      () => fileOf(['spiral.0.arm', 'text_encoder.text_model.encoder.layers.0.self_attn.q_proj']),
      () => fileOf(['spiral.0.leg', 'text_encoder.text_model.encoder.layers.0.self_attn.q_proj']),
      /no layer of the same name/,
    ],
    ['no name in common', () => fileOf(qwen), () => fileOf(['spiral.0.arm']), /no layer of the same name/],
    [
      'no name in common with a family that has signs',
      () => fileOf(kohyaFlux),
      () => fileOf(['spiral.0.arm']),
      /no layer of the same name/,
    ],
    [
      'other sizes',
      () => fileOf(qwen),
      () => fileOf(qwen, { size: [12, 8] }),
      /got other sizes \(transformer_blocks_#_attn_to_q: \[12, 10\] and \[12, 8\]\)/,
    ],
  ];
  it.each(cases)('are not of two families: %s', async (_, first, second, message) => {
    const inputs = [part(await first()), part(await second())];
    await expect(mergeFiles({ inputs, out: scratch('no.safetensors') })).rejects.toThrow(message);
  });

  it('may change different layers of one model', async () => {
    const [double, single] = [kohyaFlux.slice(0, 1), kohyaFlux.slice(2, 3)];
    const out = scratch('both.safetensors');
    await mergeFiles({ inputs: [part(await fileOf(double)), part(await fileOf(single))], out });
    expect((await loadAdapter(out)).layers.size).toBe(2);
    const next = await fileOf(['transformer_blocks.7.attn.to_q']);
    const more = scratch('more.safetensors');
    await mergeFiles({ inputs: [part(await fileOf(qwen)), part(next)], out: more });
    expect((await loadAdapter(more)).layers.size).toBe(3);
  });
});

const sd1 = () => fileOf(['lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q']);

describe('block weights', () => {
  const flux61 = (values: Record<number, number>): string =>
    Array.from({ length: 61 }, (_, i) => values[i] ?? 0).join(',');
  it('count where the family’s blocks have names', async () => {
    const file = await fileOf(kohyaFlux);
    const out = scratch('blocks.safetensors');
    // CLIP, T5, IN, 19 double blocks, 38 single ones, OUT.
    await mergeFiles({ inputs: [{ ...part(file), blockWeights: flux61({ 1: 0.5, 59: 2, 60: 3 }) }], out });
    const [before, after] = [await loadAdapter(file), await loadAdapter(out)];
    const factors = [...after.layers].map(([id, layer]) => [
      id,
      denseOf(layer)[0]! / denseOf(before.layers.get(id)!)[0]!,
    ]);
    expect(Object.fromEntries(factors)).toEqual({
      'network:single_blocks_37_linear1': expect.closeTo(2, 5),
      'network:final_layer_linear': expect.closeTo(3, 5),
      'encoder:te2_encoder_block_0_layer_0_SelfAttention_q': expect.closeTo(0.5, 5),
    });
  });

  it('are refused where nobody named them; strengths of encoders work', async () => {
    const file = await fileOf(['lora_unet_spiral_3_arm', 'lora_te_reader_0_look']);
    const inputs = [{ ...part(file), blockWeights: '1,0,0' }];
    await expect(mergeFiles({ inputs, out: scratch('no.safetensors') })).rejects.toThrow(
      /whose blocks have names/,
    );
    const out = scratch('net.safetensors');
    await mergeFiles({ inputs: [{ ...part(file), textEncoderStrength: 0 }], out });
    expect([...(await loadAdapter(out)).layers.keys()]).toEqual(['network:spiral_3_arm']);
  });
});

describe('what needs a network', () => {
  const model = goldenPath('goldens/tiny-random/model');
  it('says which families it has', async () => {
    const file = await fileOf(kohyaFlux);
    await expect(loadConcept(file)).rejects.toThrow(
      /expected a concept for Stable Diffusion 1\.x, Stable Diffusion 2\.x or SDXL, got one for Flux/,
    );
    await expect(bakeFiles({ base: model, inputs: [part(file)], out: scratch('baked') })).rejects.toThrow(
      /does not fit .*: expected an adapter for Stable Diffusion 1\.x, got one for Flux/,
    );
  });
});
