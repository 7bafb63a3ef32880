import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { positionalLayers } from '../../src/adapters/schemes/cloneofsimo.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { MismatchError } from '../../src/errors.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32, renamed } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { extractModel } from '../../src/merging/jobs/extract-model.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import { lintMerge } from '../../src/merging/lint.ts';
import { openModelFiles } from '../../src/merging/model-files.ts';
import { verifyFile } from '../../src/merging/verify.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { packageRoot } from '../../src/package-root.ts';
import { relativeError } from '../support/close.ts';
import {
  allLayers,
  attentionLayers,
  denseOf,
  type RandomLayer,
  type RandomSpec,
  randomAdapter,
  randomLycoris,
  scratch,
} from './random-adapters.ts';

const world = path.join(packageRoot(), 'fixtures/tiny-world');
const model = path.join(world, 'model');
const concepts = readdirSync(path.join(world, 'concepts'))
  .filter((name) => name.endsWith('.pth') || name.endsWith('.safetensors'))
  .map((name) => path.join(world, 'concepts', name));
const [first, second] = concepts as [string, string];

const input = (file: string, strength = 1) => ({
  path: file,
  strength,
  textEncoderStrength: null,
  blockWeights: null,
});

async function randomFile(spec: Partial<RandomSpec> = {}, layers = attentionLayers): Promise<string> {
  const file = scratch('lora.safetensors');
  await writeAdapter(
    file,
    'kohya',
    randomAdapter(layers, { seed: 1, rank: 3, loraAlpha: 2, dtype: 'F32', ...spec }),
  );
  return file;
}

describe('merging concepts of a real model', () => {
  it('drops no word silently', async () => {
    const out = scratch('merged.safetensors');
    await expect(mergeFiles({ inputs: [input(first), input(second)], out })).rejects.toThrow(
      /entries cannot be held; `drop` leaves them out:\n {2}<.+>: one vector per cross-attention layer/,
    );
    expect(existsSync(out)).toBe(false);
  });

  it('keeps words where the scheme holds them, and renames those that meet', async () => {
    const out = scratch('merged.pth');
    const result = await mergeFiles({ inputs: [input(first), input(first, 0.5)], out, format: 'ed-lora' });
    const words = (await loadAdapter(first)).words.map(({ word }) => word);
    expect(result.words).toEqual([...words, ...words.map((word) => `${word.slice(0, -1)}-2>`)]);
    expect(result.renamed.map(({ from }) => from)).toEqual(words);
    const merged = await loadAdapter(out);
    expect(merged.words.map(({ word }) => word)).toEqual(result.words);
    for (const [id, layer] of (await loadAdapter(first)).layers) {
      const expected = denseOf(layer).map((value) => 1.5 * value);
      expect(relativeError(denseOf(merged.layers.get(id)!), expected)).toBeLessThan(1e-6);
    }
  });

  it('says in the file what it is made of, and can be made again', async () => {
    const out = scratch('merged.safetensors');
    const inputs = [input(first, 0.7), { ...input(second, -0.4), blockWeights: 'MIDD' }];
    await mergeFiles({ inputs, out, method: 'dare-ties-svd', rank: 4, seed: 11, drop: true });
    const { metadata } = await openTensorFile(out);
    expect(JSON.parse(metadata.get('edlora.recipe')!)).toMatchObject({
      kind: 'merge',
      inputs: [
        {
          files: [{ path: expect.stringContaining(path.basename(first)), sha256: await hashFile(first) }],
          settings: { strength: 0.7 },
        },
        { settings: { strength: -0.4, blockWeights: 'MIDD' } },
      ],
      options: { method: 'dare-ties-svd', seed: 11 },
    });
    expect(metadata.get('modelspec.sai_model_spec')).toBe('1.0.1');
    expect(metadata.get('ss_network_module')).toBe('networks.lora');
    const report = await verifyFile(out, { rebuild: true, search: [path.join(world, 'concepts')] });
    expect(report).toMatchObject({ kind: 'merge', rebuilt: true, ok: true });
    expect(report.inputs.map(({ state }) => state)).toEqual(['same', 'same']);
  });

  it('notices a changed input', async () => {
    const moved = scratch('a.safetensors');
    cpSync(await randomFile(), moved);
    const out = scratch('resized.safetensors');
    await resizeFile({ input: moved, out, rule: { kind: 'rank' }, rank: 2 });
    expect(await verifyFile(out, { rebuild: true })).toMatchObject({
      kind: 'resize',
      rebuilt: true,
      ok: true,
    });
    cpSync(await randomFile({ seed: 9 }), moved);
    expect(await verifyFile(out)).toMatchObject({ ok: false, inputs: [{ state: 'changed' }] });
  });
});

describe('converting', () => {
  it('keeps the inputs’ own metadata, nested or in place', async () => {
    const plain = await randomFile();
    const { tensors } = await openTensorFile(plain);
    const described = scratch('described.safetensors');
    await writeSafetensors(described, tensors.values(), {
      ss_seed: '42',
      ss_network_dim: '99',
      note: 'mine',
    });
    const out = scratch('out.safetensors');
    await convertFile({ input: described, out, format: 'diffusers' });
    const { metadata } = await openTensorFile(out);
    expect(metadata.get('ss_seed')).toBe('42');
    expect(metadata.get('note')).toBe('mine');
    expect(metadata.has('ss_network_dim')).toBe(false);
    expect(JSON.parse(metadata.get('edlora.inputs')!)).toMatchObject([
      { metadata: { ss_network_dim: '99' } },
    ]);
  });

  it('states rank and error where a layer cannot become LoRA exactly', async () => {
    const file = scratch('lycoris.safetensors');
    await writeAdapter(
      file,
      'lycoris',
      randomLycoris(allLayers, { seed: 2, rank: 2, loraAlpha: 1, dtype: 'F32' }),
    );
    await expect(
      convertFile({ input: file, out: scratch('a.safetensors'), format: 'kohya' }),
    ).rejects.toThrow(/this diff layer has the full rank \d+; choose a smaller one with `rank`/);
    const out = scratch('b.safetensors');
    const { converted } = await convertFile({ input: file, out, format: 'kohya', rank: 5 });
    const [before, after] = [await loadAdapter(file), await loadAdapter(out)];
    expect(new Set(converted.map(({ from }) => from))).toEqual(new Set(['loha', 'lokr', 'tucker', 'diff']));
    for (const { id, from, relativeError: stated, rank } of converted) {
      const own = relativeError(denseOf(after.layers.get(id)!), denseOf(before.layers.get(id)!));
      expect(own).toBeCloseTo(stated, 6);
      expect(rank).toBeLessThanOrEqual(5);
      if (from === 'loha') expect(stated).toBe(0);
      if (from === 'diff') expect(stated).toBeGreaterThan(0.1);
    }
  });

  it('moves words between every form that holds them', async () => {
    const single = scratch('dog.safetensors');
    const vectors = Float32Array.from({ length: 3 * 8 }, (_, i) => i / 7);
    await writeSafetensors(single, [float32Tensor('<dog>', [3, 8], vectors)]);
    for (const [format, name] of [
      ['a1111', 'dog.pt'],
      ['a1111', 'dog.safetensors'],
      ['kohya-embedding', 'dog.safetensors'],
      ['diffusers-embedding', 'dog.bin'],
      ['sdxl-embedding', 'dog.safetensors'],
    ] as const) {
      const out = scratch(name);
      await convertFile({ input: single, out, format });
      const { words } = await loadAdapter(out);
      expect(words).toHaveLength(1);
      if (format !== 'sdxl-embedding') expect(words[0]!.word).toBe('<dog>');
      expect([...readFloat32(words[0]!.embedding)]).toEqual([...vectors]);
    }
    // ED-LoRA's 16 rows are XTI's 16 keys.
    const xti = scratch('dogs.bin');
    const out = scratch('words.pth');
    await convertFile({ input: first, out: xti, format: 'xti', drop: true });
    await convertFile({ input: xti, out, format: 'ed-lora' });
    const [there, back] = [(await loadAdapter(first)).words, (await loadAdapter(out)).words];
    expect(back).toHaveLength(there.length);
    back.forEach(({ embedding, rows }, i) => {
      expect(rows).toBe('layers');
      expect([...readFloat32(embedding)]).toEqual([...readFloat32(there[i]!.embedding)]);
    });
  });

  it('bundles words into a LoRA and finds them there', async () => {
    const file = scratch('with-word.safetensors');
    const embedding = float32Tensor(
      'w',
      [2, 8],
      Float32Array.from({ length: 16 }, (_, i) => i),
    );
    const output = randomAdapter(attentionLayers, { seed: 4, rank: 2, loraAlpha: 2, dtype: 'F16' });
    await writeAdapter(file, 'kohya', {
      ...output,
      words: [{ word: '<cat>', embedding, rows: 'tokens', encoder: 'text_encoder' }],
    });
    const adapter = await loadAdapter(file);
    expect(adapter.words.map(({ word }) => word)).toEqual(['<cat>']);
    expect(adapter.layers.size).toBe(attentionLayers.length);
  });
});

describe('what forms cannot hold', () => {
  it('lists names that XTI has no place for, and headers that torch files have not', async () => {
    await expect(convertFile({ input: first, out: scratch('w.bin'), format: 'xti' })).rejects.toThrow(
      /names <.+>: xti files have 16 numbered keys and no names/,
    );
    const described = scratch('described.safetensors');
    const { tensors } = await openTensorFile(await randomFile());
    await writeSafetensors(described, tensors.values(), { format: 'pt', ss_seed: '42', note: 'mine' });
    const job = { input: described, out: scratch('l.pth'), format: 'ed-lora' as const };
    await expect(convertFile(job)).rejects.toThrow(
      /header \((note, ss_seed|ss_seed, note)\): PyTorch's files hold no header/,
    );
    expect((await convertFile({ ...job, noMetadata: true })).dropped).toEqual([]);
    expect((await convertFile({ ...job, drop: true, force: true })).dropped).toHaveLength(1);
  });

  it('keeps the header of embeddings', async () => {
    const file = scratch('dog.safetensors');
    await writeSafetensors(file, [float32Tensor('<dog>', [1, 8], new Float32Array(8).fill(1))], {
      'modelspec.title': 'a dog',
    });
    const out = scratch('dog2.safetensors');
    await convertFile({ input: file, out, format: 'kohya-embedding' });
    expect((await openTensorFile(out)).metadata.get('modelspec.title')).toBe('a dog');
  });

  it('can be converted again from the recipe', async () => {
    const file = scratch('lycoris.safetensors');
    await writeAdapter(
      file,
      'lycoris',
      randomLycoris(allLayers, { seed: 2, rank: 2, loraAlpha: 1, dtype: 'F16' }),
    );
    const out = scratch('converted.safetensors');
    await convertFile({ input: file, out, format: 'diffusers', rank: 4, dtype: 'F16' });
    const report = await verifyFile(out, { rebuild: true });
    expect(report).toMatchObject({ kind: 'convert', rebuilt: true, ok: true });
  });
});

describe('positional files', () => {
  const positional = (order: number): RandomLayer[] =>
    [...positionalLayers('unet', order), ...positionalLayers('text_encoder')].map((module) => ({
      module,
      kernel: null,
      m: module.layerName.includes('.ff.') ? 64 : 8,
      n: /attn2\.to_[kv]/.test(module.layerName) ? 6 : 8,
    }));

  it('go there and back where all layers are there', async () => {
    for (const order of [0, 2]) {
      const output = randomAdapter(positional(order), { seed: 8, rank: 2, loraAlpha: 1, dtype: 'F32' });
      const out = scratch('numbered.safetensors');
      await writeAdapter(out, 'cloneofsimo', output);
      const back = await loadAdapter(out);
      expect(back.scheme).toBe('cloneofsimo');
      expect(back.layers.size).toBe(output.layers.length);
      for (const layer of output.layers) {
        expect(relativeError(denseOf(back.layers.get(adapterModuleId(layer))!), denseOf(layer))).toBeLessThan(
          1e-6,
        );
      }
    }
  });

  it('are read in the order of older diffusers too, which shapes tell', async () => {
    const walk = positional(1).filter(({ module }) => module.component === 'unet');
    const draw = randomAdapter(walk, { seed: 8, rank: 2, loraAlpha: 2, dtype: 'F32' });
    const out = scratch('older.safetensors');
    const tensors = draw.layers.flatMap((layer, i) =>
      layer.kind === 'lora' ? [renamed(layer.up, `unet:${i}:up`), renamed(layer.down, `unet:${i}:down`)] : [],
    );
    await writeSafetensors(out, tensors);
    const back = await loadAdapter(out);
    for (const layer of draw.layers) {
      expect([...denseOf(back.layers.get(adapterModuleId(layer))!)]).toEqual([...denseOf(layer)]);
    }
    await writeSafetensors(out, tensors.slice(2));
    await expect(loadAdapter(out)).rejects.toThrow('numbered layers of Stable Diffusion 1.x without gaps');
  });

  it('cannot be written with layers missing', async () => {
    const output = randomAdapter(attentionLayers, { seed: 1, rank: 1, loraAlpha: 1, dtype: 'F32' });
    await expect(writeAdapter(scratch('a.safetensors'), 'cloneofsimo', output)).rejects.toThrow(
      /numbered layers must be complete, \d+ of 128 are missing/,
    );
  });
});

describe('Custom Diffusion', () => {
  const layerName = 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k';

  it('becomes a LoRA against its base', async () => {
    const before = (await openModelFiles(model)).weights.get(`unet:${layerName}`)!;
    const after = Float32Array.from(readFloat32(before), (value, i) => value + (i % 7) / 100);
    const file = scratch('delta.bin');
    const weight = torchTensor(float32Tensor('w', before.shape, after));
    const word = torchTensor(float32Tensor('v', [before.shape[1]!], new Float32Array(before.shape[1]!)));
    await writeTorchZip(
      file,
      new Map([
        ['unet', new Map([[`${layerName}.weight`, weight]])],
        ['modifier_token', new Map([['<new1>', word]])],
      ]),
    );
    const out = scratch('lora.safetensors');
    await expect(convertFile({ input: file, out, format: 'kohya', rank: 7 })).rejects.toThrow(
      'name the base model with `base`',
    );
    const { converted, words } = await convertFile({
      input: file,
      out,
      format: 'kohya',
      rank: 7,
      base: model,
    });
    expect(words).toEqual(['<new1>']);
    expect(converted).toMatchObject([{ from: 'weight', rank: 7 }]);
    const layer = (await loadAdapter(out)).layers.get(`unet:${layerName}`)!;
    const expected = after.map((value, i) => value - readFloat32(before)[i]!);
    expect(relativeError(denseOf(layer), expected)).toBeCloseTo(converted[0]!.relativeError, 5);
  });
});

describe('baking', () => {
  const weightOf = async (folder: string, id: string): Promise<Float32Array> =>
    readFloat32((await openModelFiles(folder)).weights.get(id)!);

  it('writes a folder whose weights are base plus changes, and leaves the rest', async () => {
    const out = scratch('baked');
    const result = await bakeFiles({
      base: model,
      inputs: [input(first, 0.8), input(second, -0.5)],
      out,
      drop: true,
    });
    const adapters = [await loadAdapter(first), await loadAdapter(second)];
    expect(result.layers).toBe(new Set(adapters.flatMap(({ layers }) => [...layers.keys()])).size);
    const before = await openModelFiles(model);
    const after = await openModelFiles(out);
    for (const [id, tensor] of before.weights) {
      const expected = Float64Array.from(readFloat32(tensor));
      adapters.forEach(({ layers }, i) => {
        const layer = layers.get(id);
        if (layer === undefined) return;
        denseOf(layer).forEach((value, at) => {
          expected[at]! += [0.8, -0.5][i]! * value;
        });
      });
      // Float32 products, rounded to the base's dtype.
      expect(readFloat32(after.weights.get(id)!)).toBeAllClose(expected, {
        rtol: tensor.dtype === 'F16' ? 1e-3 : 1e-6,
      });
    }
    const files = (folder: string): string[] => readdirSync(folder, { recursive: true }).map(String).sort();
    expect(files(out)).toEqual(
      ['.edlora-contents.json', ...files(model).map((name) => name.replace(/\.bin$/, '.safetensors'))].sort(),
    );
    const search = [path.join(world, 'concepts')];
    expect(await verifyFile(out, { rebuild: true, search })).toMatchObject({
      kind: 'bake',
      rebuilt: true,
      ok: true,
    });
  });

  it('extracts from a baked model what was put in', async () => {
    const baked = scratch('baked');
    const kohya = scratch('first.safetensors');
    await convertFile({ input: first, out: kohya, format: 'kohya', drop: true });
    await bakeFiles({ base: model, inputs: [input(kohya)], out: baked, dtype: 'F32' });
    const out = scratch('extracted.safetensors');
    const { layers } = await loadAdapter(kohya);
    const ranks = [...layers.values()].map(({ rank }) => rank!);
    const { extracted } = await extractModel({
      tuned: baked,
      base: model,
      out,
      rank: Math.max(...ranks),
      layers: 'all',
    });
    expect(extracted.map(({ id }) => id).sort()).toEqual([...layers.keys()].sort());
    const again = await loadAdapter(out);
    for (const [id, layer] of layers) {
      // Weights in float32 keep about 1e-7 of themselves, changes are smaller.
      expect(relativeError(denseOf(again.layers.get(id)!), denseOf(layer))).toBeLessThan(1e-3);
    }
    expect((await openModelFiles(baked)).weights.size).toBe((await openModelFiles(model)).weights.size);
    const name = [...layers.keys()][0]!;
    expect(await weightOf(baked, name)).not.toEqual(await weightOf(model, name));
  });

  it('names layers that the model lacks', async () => {
    const out = scratch('baked');
    const file = await randomFile({}, [
      {
        module: { component: 'unet', layerName: 'down_blocks.9.resnets.0.conv1' },
        kernel: [3, 3],
        m: 4,
        n: 4,
      },
    ]);
    await expect(bakeFiles({ base: model, inputs: [input(file)], out })).rejects.toThrow(
      'unet:down_blocks.9.resnets.0.conv1: model has no such layer',
    );
    await expect(bakeFiles({ base: model, inputs: [input(await randomFile())], out })).rejects.toThrow(
      MismatchError,
    );
    expect(existsSync(out)).toBe(false);
  });
});

describe('lint', () => {
  it('finds what FIELD knows: cross terms, squared ratios, a gain of a half', async () => {
    const files = [await randomFile({ seed: 1, loraAlpha: 3 }), await randomFile({ seed: 2, loraAlpha: 3 })];
    const inputs = await Promise.all(files.map(async (file) => ({ adapter: await loadAdapter(file) })));
    const linear = await lintMerge(inputs, 'kohya-merge');
    expect(linear.relativeError).toBeGreaterThan(0.5);
    const concat = await lintMerge(inputs, 'kohya-concat');
    // Equal ranks at strength 1: half of each, direction right.
    expect(concat.gain).toBeCloseTo(0.5, 6);
    expect(concat.relativeError).toBeCloseTo(0.5, 6);
    const quarter = await lintMerge(
      inputs.map((entry) => ({ ...entry, strength: 0.5 })),
      'kohya-concat',
    );
    expect(quarter.gain).toBeCloseTo(0.25, 6);
    expect((await lintMerge(inputs, 'peft-svd', { rank: 6 })).relativeError).toBeLessThan(1e-6);
    await expect(lintMerge(inputs, 'kohya-marge')).rejects.toThrow('did you mean "kohya-merge"?');
  });

  it('says where a tool refuses', async () => {
    const inputs = await Promise.all(
      [await randomFile({ rank: 2 }), await randomFile({ rank: 4 })].map(async (file) => ({
        adapter: await loadAdapter(file),
      })),
    );
    expect((await lintMerge(inputs, 'kohya-merge')).refusal).toContain('expected equal ranks, got 2 and 4');
  });
});

describe('bad input', () => {
  const up = 'lora_unet_mid_block_attentions_0_proj_in.lora_up.weight';
  const tensor = (name: string, shape: number[], value = 1) =>
    float32Tensor(name, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value));
  const written = async (...tensors: ReturnType<typeof tensor>[]): Promise<string> => {
    const file = scratch('bad.safetensors');
    await writeSafetensors(file, tensors);
    return file;
  };

  it.each([
    ['half a pair', [tensor(up, [4, 2])], 'lora_up.weight without lora_down.weight'],
    [
      'alpha NaN',
      [
        tensor(up, [4, 2]),
        tensor(up.replace('lora_up', 'lora_down'), [2, 4]),
        tensor(up.replace('lora_up.weight', 'alpha'), [], Number.NaN),
      ],
      'expected one number, got NaN',
    ],
    [
      'rank 0',
      [tensor(up, [4, 0]), tensor(up.replace('lora_up', 'lora_down'), [0, 4])],
      'expected a rank of at least 1',
    ],
    [
      'shapes that do not fit',
      [tensor(up, [4, 3]), tensor(up.replace('lora_up', 'lora_down'), [2, 4])],
      'to fit',
    ],
    [
      'an unknown scheme',
      [tensor('unet.down_blocks.0.attentions.0.attn1.to_q.lora_C.weight', [4, 2])],
      'the nearest scheme is diffusers',
    ],
  ])('%s', async (_, tensors, message) => {
    await expect(loadAdapter(await written(...tensors))).rejects.toThrow(message);
  });

  it('two names for one layer', async () => {
    const ldm = 'lora_unet_middle_block_1_proj_in.lora_up.weight';
    const file = await written(tensor(up, [4, 2]), tensor(ldm, [4, 2]));
    await expect(loadAdapter(file)).rejects.toThrow(
      'are both lora_up.weight of unet:mid_block.attentions.0.proj_in',
    );
  });

  it('SD 1.x and SDXL together', async () => {
    const sdxl = scratch('xl.safetensors');
    const second = 'lora_te2_text_model_encoder_layers_31_mlp_fc1';
    await writeSafetensors(sdxl, [
      tensor(`${second}.lora_up.weight`, [4, 2]),
      tensor(`${second}.lora_down.weight`, [2, 4]),
    ]);
    await expect(
      mergeFiles({ inputs: [input(await randomFile()), input(sdxl)], out: scratch('a.safetensors') }),
    ).rejects.toThrow(
      /expected an adapter for Stable Diffusion 1\.x as .+, got one for SDXL; they cannot be merged/,
    );
  });

  it('changes of different shapes', async () => {
    const other = await randomFile(
      {},
      attentionLayers.map((layer) => ({ ...layer, m: layer.m + 1 })),
    );
    await expect(
      mergeFiles({ inputs: [input(await randomFile()), input(other)], out: scratch('a.safetensors') }),
    ).rejects.toThrow(/expected changes of one shape, got \[\d+, (\d+)\] and \[\d+, \1\]/);
  });

  it('a target that is an input, or there already', async () => {
    const file = await randomFile();
    const bytes = readFileSync(file);
    await expect(mergeFiles({ inputs: [input(file)], out: file, force: true })).rejects.toThrow(
      'is also an input',
    );
    const there = scratch('there.safetensors');
    writeFileSync(there, 'x');
    await expect(mergeFiles({ inputs: [input(file)], out: there })).rejects.toThrow('`force` to replace it');
    expect(readFileSync(file).equals(bytes)).toBe(true);
    expect(readFileSync(there, 'utf8')).toBe('x');
  });

  it('a target folder that does not exist', async () => {
    const out = path.join(path.dirname(scratch('x')), 'nowhere', 'a.safetensors');
    await expect(mergeFiles({ inputs: [input(await randomFile())], out })).rejects.toThrow(
      'its folder does not exist',
    );
    mkdirSync(path.dirname(out));
    await mergeFiles({ inputs: [input(await randomFile())], out });
    expect(existsSync(out)).toBe(true);
  });
});

describe('a job that is aborted', () => {
  /** The miniature with one layer changed. */
  async function tunedModel(): Promise<string> {
    const out = scratch('tuned');
    const module = attentionLayers[0]!.module;
    const base = await openModelFiles(model);
    const [m, n] = base.weights.get(adapterModuleId(module))!.shape as [number, number];
    const lora = await randomFile({}, [{ module, kernel: null, m, n }]);
    await bakeFiles({ base: model, inputs: [input(lora)], out });
    return out;
  }

  type Job = (out: string, signal: AbortSignal, onStep: () => void) => Promise<unknown>;
  const jobs: [string, string, Job][] = [
    [
      'merge',
      'out.safetensors',
      async (out, signal, onProgress) => {
        const inputs = [input(await randomFile()), input(await randomFile({ seed: 2 }))];
        return mergeFiles({ inputs, out, method: 'svd', signal, onProgress });
      },
    ],
    [
      'merge',
      'folder',
      async (out, signal, onProgress) =>
        mergeFiles({ inputs: [input(await randomFile())], out, format: 'peft', signal, onProgress }),
    ],
    [
      'convert',
      'out.safetensors',
      async (out, signal, onProgress) =>
        convertFile({ input: await randomFile(), out, format: 'diffusers', signal, onProgress }),
    ],
    [
      'convert',
      'out.pth',
      async (out, signal, onProgress) =>
        convertFile({ input: await randomFile(), out, format: 'ed-lora', drop: true, signal, onProgress }),
    ],
    [
      'resize',
      'out.safetensors',
      async (out, signal, onProgress) =>
        resizeFile({ input: await randomFile(), out, rule: { kind: 'rank' }, rank: 2, signal, onProgress }),
    ],
    [
      'extract',
      'out.safetensors',
      async (out, signal, onProgress) =>
        extractModel({ tuned: await tunedModel(), base: model, rank: 2, out, signal, onProgress }),
    ],
    [
      'bake',
      'out',
      async (out, signal, onProgress) =>
        bakeFiles({ base: model, inputs: [input(first)], out, drop: true, signal, onProgress }),
    ],
  ];

  it.each(jobs)('%s to %s, while it works: throws the reason and leaves nothing', async (_, name, job) => {
    const out = scratch(name);
    const reason = new Error('enough');
    const controller = new AbortController();
    let steps = 0;
    const started = job(out, controller.signal, () => {
      steps++;
      controller.abort(reason);
    });
    await expect(started).rejects.toBe(reason);
    expect(steps).toBeGreaterThan(0);
    expect(readdirSync(path.dirname(out))).toEqual([]);
  });

  it.each(jobs)('%s to %s, at its last step: nothing gets the name', async (_, name, job) => {
    const [whole, out] = [scratch(name), scratch(name)];
    let total = 0;
    await job(whole, new AbortController().signal, () => {
      total++;
    });
    const reason = new Error('enough');
    const controller = new AbortController();
    const started = job(out, controller.signal, () => {
      total--;
      if (total === 0) controller.abort(reason);
    });
    await expect(started).rejects.toBe(reason);
    expect(readdirSync(path.dirname(out))).toEqual([]);
  });

  it.each(jobs)('%s to %s, before it begins: no work is done', async (_, name, job) => {
    const out = scratch(name);
    const reason = new Error('enough');
    await expect(
      job(out, AbortSignal.abort(reason), () => {
        throw new Error('worked');
      }),
    ).rejects.toBe(reason);
    expect(readdirSync(path.dirname(out))).toEqual([]);
  });

  it('verify and lint throw the reason too', async () => {
    const [file, reason] = [await randomFile(), new Error('enough')];
    const out = scratch('resized.safetensors');
    await resizeFile({ input: file, out, rule: { kind: 'rank' }, rank: 2 });
    const signal = AbortSignal.abort(reason);
    await expect(verifyFile(out, { signal })).rejects.toBe(reason);
    const adapter = await loadAdapter(file);
    await expect(lintMerge([{ adapter }, { adapter }], 'peft-svd', { signal })).rejects.toBe(reason);
  });
});
