import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { writeEmbeddings } from '../../src/concepts/lora-file.ts';
import { FormatError, MismatchError, UsageError } from '../../src/errors.ts';
import { float32Tensor, renamed } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { type ModelSources, openSceneModel, type SceneConcept } from '../../src/sampling/model-source.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { prepareScene } from '../../src/sampling/scene-request.ts';
import type { Scene } from '../../src/sampling/scene-schema.ts';
import { goldenPath } from '../support/goldens.ts';
import { tokenOf, vectorsOf } from '../support/tokens.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-model-'));
afterAll(() => rmSync(folder, { recursive: true }));
const model = goldenPath('goldens/tiny-random/model');
const edlora = goldenPath('goldens/tiny-random/edlora.pth');
const open = (scene: Scene): ReturnType<typeof openSceneModel> =>
  openSceneModel(normalScene(scene, (file) => file) satisfies ModelSources);
const rows = (count: number, width = 32): Float32Array =>
  Float32Array.from({ length: count * width }, (_, i) => i / 100);

describe('what a scene draws with', () => {
  it('is the base alone', async () => {
    const { base, vocabulary, deltas, conceptNames } = await open({ base: model });
    expect(base.path).toBe(model);
    expect(deltas.size).toBe(0);
    expect(vocabulary.tokens).toEqual([]);
    expect(conceptNames).toEqual([]);
  });

  it('is a concept with its words and strengths', async () => {
    const one = await open({ base: model, concepts: [{ path: edlora, strength: 0.5 }] });
    expect(one.conceptNames).toEqual(['<potter1> <potter2>']);
    expect(one.vocabulary.layerPrompts('a <POTTER1>')[3]).toBe('a <new3>');
    const both = await open({ base: model, loras: [{ path: edlora, unetStrength: 0.25 }], concepts: [] });
    expect(one.concepts).toMatchObject([
      {
        path: edlora,
        words: ['<potter1>', '<potter2>'],
        own: { unetStrength: 0.5, textEncoderStrength: 0.5 },
      },
    ]);
    expect(both.concepts[0]!.own).toEqual({ unetStrength: 0.25, textEncoderStrength: 1 });
    expect(both.concepts[0]!.deltas).toEqual(one.concepts[0]!.deltas);
    expect(one.deltas.size).toBe(0);
  });

  it('is a file that only a region names, with or without its ending', async () => {
    const called = edlora.replace(/\.pth$/, '');
    const scene = { base: model, regions: [`a <lora:${called}:0.3> @ 0,0,1,1`], prompt: '' };
    const { concepts, vocabulary } = await open(scene);
    expect(concepts).toMatchObject([{ path: called, own: null }]);
    expect(vocabulary.tokens).toHaveLength(2);
    const missing = { ...scene, regions: ['a <lora:nobody> @ 0,0,1,1'] };
    await expect(open(missing)).rejects.toThrow(/<lora:nobody>: no such file, and no LoRA of that name/);
  });

  it('is the folder of a fusion, its words in the order of the recipe', async () => {
    const concept = await loadConcept(edlora);
    const fused = path.join(folder, 'fusion');
    mkdirSync(fused);
    const { layers } = await loadAdapter(edlora);
    const output = { architecture: 'sd1', layers: [...layers.values()], words: [], title: 'fusion' } as const;
    await writeAdapter(path.join(fused, 'lora.safetensors'), 'kohya', output);
    await writeSafetensors(
      path.join(fused, 'embeddings.safetensors'),
      concept.tokens.map((token) => renamed(vectorsOf(token), token.word)),
    );
    const words = concept.tokens.map(({ word }) => word).reverse();
    const recipe = {
      base: { path: model, prediction: 'v_prediction' },
      concepts: [{ name: words.join(' '), words }],
    };
    writeFileSync(path.join(fused, 'recipe.json'), JSON.stringify(recipe));
    const opened = await open({ fused });
    const single = await open({ base: model, concepts: [edlora] });
    expect(opened.base.path).toBe(model);
    // What the base was said to predict when it was fused; another base, or another word, comes first.
    expect(opened.base.schedule.config.prediction_type).toBe('v_prediction');
    const predicted = async (more: Scene) =>
      (await open({ fused, ...more })).base.schedule.config.prediction_type ?? 'epsilon';
    expect(await predicted({ base: model })).toBe('epsilon');
    expect(await predicted({ prediction: 'sample' })).toBe('sample');
    expect(opened.conceptNames).toEqual([words.join(' ')]);
    expect(opened.vocabulary.tokens.map(({ word }) => word)).toEqual(words);
    const [{ deltas }] = single.concepts as [SceneConcept];
    expect([...opened.deltas.keys()].sort()).toEqual([...deltas.keys()].sort());
    for (const [name, delta] of deltas) {
      expect(toDense(opened.deltas.get(name)!).data).toBeAllClose(toDense(delta).data, { rtol: 1e-6 });
    }
    rmSync(path.join(fused, 'recipe.json'));
    await expect(open({ fused })).rejects.toThrow('expected a fusion (lora.safetensors and recipe.json)');
  });

  it('is a single file with the tokenizer of another folder', async () => {
    const file = goldenPath('goldens/tiny-random/single_file.safetensors');
    const { base, conceptNames } = await open({ base: file, baseConfig: model, concepts: [edlora] });
    expect(base.layout).not.toBe('diffusers');
    expect(base.tokenizer.vocabSize).toBe((await open({ base: model })).base.tokenizer.vocabSize);
    expect(conceptNames).toEqual(['<potter1> <potter2>']);
  });

  it('is a fused checkpoint as Mix-of-Show writes it', async () => {
    const fused = path.join(folder, 'fused');
    cpSync(model, fused, { recursive: true });
    const known = await open({ base: model, concepts: [edlora] });
    const names = known.vocabulary.tokens.flatMap(({ names: own }) => own);
    const start = known.base.tokenizer.vocabSize;
    const added = Object.fromEntries(names.map((name, i) => [name, start + i]));
    writeFileSync(path.join(fused, 'tokenizer/added_tokens.json'), JSON.stringify(added));
    writeFileSync(path.join(fused, 'new_concept_cfg.json'), JSON.stringify(known.vocabulary.conceptConfig()));
    const opened = await open({ fused });
    expect(opened.vocabulary.layerPrompts('a <potter1> <potter2>')).toEqual(
      known.vocabulary.layerPrompts('a <potter1> <potter2>'),
    );
    expect(opened.vocabulary.embeddingRows('text_encoder').length).toBe(0);
    expect(opened.conceptNames).toEqual(['<potter1> <potter2>']);
    await expect(open({ fused, base: model })).rejects.toThrow(/whole checkpoint; leave out `base`/);
    writeFileSync(
      path.join(fused, 'new_concept_cfg.json'),
      JSON.stringify({ '<x>': { concept_token_ids: [1], concept_token_names: ['<new0>'] } }),
    );
    await expect(open({ fused })).rejects.toThrow(MismatchError);
  });

  it('takes textual inversions of every layout', async () => {
    const diffusers = path.join(folder, 'diffusers.safetensors');
    await writeSafetensors(diffusers, [float32Tensor('<one>', [1, 32], rows(1))]);
    const several = path.join(folder, 'several.safetensors');
    await writeSafetensors(several, [float32Tensor('<three>', [3, 32], rows(3))]);
    const layered = path.join(folder, 'layered.safetensors');
    const deep = float32Tensor('<deep>', [16, 32], rows(16));
    await writeEmbeddings(layered, [tokenOf('<deep>', deep)]);
    const long = path.join(folder, 'long.safetensors');
    await writeSafetensors(long, [renamed(deep, '<long>')]);
    const kohya = path.join(folder, 'kohyaword.safetensors');
    await writeSafetensors(kohya, [float32Tensor('emb_params', [2, 32], rows(2))]);
    const { vocabulary } = await open({
      base: model,
      embeddings: [diffusers, several, layered, long, kohya],
    });
    const [first] = vocabulary.layerPrompts('<one>|<three>|<deep>|<long>|kohyaword');
    expect(first!.split('|').map((part) => part.split(' ').length)).toEqual([1, 3, 1, 16, 2]);
    expect(vocabulary.embeddingRows('text_encoder').length).toBe((1 + 3 + 1 + 16 + 2) * 16 * 32);
    // The file's name calls its word too, save where it is a word of its own.
    expect(vocabulary.layerPrompts('diffusers, several')[2]).toBe(
      vocabulary.layerPrompts('<one>, <three>')[2],
    );
    const ordinary = path.join(folder, 'dog.safetensors');
    await writeSafetensors(ordinary, [float32Tensor('<zqx>', [2, 32], rows(2))]);
    const other = (await open({ base: model, embeddings: [ordinary] })).vocabulary;
    expect(other.layerPrompts('dog, <zqx>')[0]).toMatch(/^dog, <new0> <new16>$/);
    const wide = path.join(folder, 'wide.safetensors');
    await writeSafetensors(wide, [float32Tensor('<wide>', [1, 768], rows(1, 768))]);
    await expect(open({ base: model, embeddings: [wide] })).rejects.toThrow(/trained on SD 1.x/);
    const short = path.join(folder, 'short.safetensors');
    await writeEmbeddings(short, [tokenOf('<short>', float32Tensor('', [10, 32], rows(10)))]);
    await expect(open({ base: model, embeddings: [short] })).rejects.toThrow(
      'expected one vector for each of 16 cross-attention layers, got 10',
    );
    const lora = path.join(folder, 'lora.safetensors');
    await writeSafetensors(lora, [float32Tensor('lora_unet_x.lora_up.weight', [1, 32], rows(1))]);
    await expect(open({ base: model, embeddings: [lora] })).rejects.toThrow(/is it a LoRA/);
  });

  it('tells words that begin alike apart, whichever has several vectors', async () => {
    const files = [['foo2', 6] as const, ['foo20', 1] as const].map(async ([word, count]) => {
      const file = path.join(folder, `${word}.safetensors`);
      await writeSafetensors(file, [float32Tensor('emb_params', [count, 32], rows(count))]);
      return file;
    });
    const { vocabulary } = await open({ base: model, embeddings: await Promise.all(files) });
    const count = (prompt: string) => vocabulary.layerPrompts(prompt)[0]!.match(/<new\d+>/g)?.length ?? 0;
    expect(['foo2', 'foo20', 'foo20, foo2', 'foo200'].map(count)).toEqual([6, 1, 7, 0]);
  });

  it('refuses folders that hold no fusion', async () => {
    const empty = path.join(folder, 'empty');
    mkdirSync(empty);
    await expect(open({ fused: empty })).rejects.toThrow(FormatError);
    await expect(open({ fused: path.join(folder, 'nowhere') })).rejects.toThrow(FormatError);
  });
});

describe('a scene without prompt', () => {
  it('shows the concepts side by side', async () => {
    const scene = normalScene({ base: model, concepts: [edlora] }, (file) => file);
    const source = await openSceneModel(scene);
    const one = await prepareScene(scene, source);
    expect(one.request.prompt).toBe('photo of a <potter1> <potter2>');
    const two = await prepareScene(scene, { ...source, conceptNames: ['<a>', '<b>'] });
    expect(two.request.regions!.map(({ prompt }) => prompt)).toEqual(['photo of a <a>', 'photo of a <b>']);
    expect(two.request.width).toBe(2 * two.request.height!);
    await expect(prepareScene(scene, { ...source, conceptNames: [] })).rejects.toThrow(UsageError);
  });

  it('notes words that nobody knows, with the nearest one', async () => {
    const scene = normalScene({ base: model, concepts: [edlora], prompt: 'a <poter1>' }, (file) => file);
    const { notes } = await prepareScene(scene, await openSceneModel(scene));
    expect(notes).toEqual([
      'edlora.pth: loaded, and no prompt has <potter1> or <potter2>',
      '<poter1>: no such word in this model, read as letters; did you mean <potter1>?',
    ]);
    const called = { ...scene, prompt: 'a <potter1>' };
    expect((await prepareScene(called, await openSceneModel(called))).notes).toEqual([]);
  });
});
