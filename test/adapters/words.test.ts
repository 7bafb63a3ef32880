/** What passes for words: only names and shapes that nothing else has. */
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { LAYER_WISE_KEY } from '../../src/adapters/schemes/textual-inversion.ts';
import { notesOnWords, wordsUnsupportedBy, writeWords } from '../../src/adapters/words.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, memoryTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import type { TorchValue } from '../../src/formats/torch-value.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { scratch } from '../merging/random-adapters.ts';

const matrix = (name: string, ...shape: number[]) =>
  float32Tensor(name, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1));

async function fileOf(names: readonly string[], shape = [4, 8]): Promise<string> {
  const file = scratch('file.safetensors');
  await writeSafetensors(
    file,
    names.map((name) => matrix(name, ...shape)),
  );
  return file;
}

describe('words', () => {
  it.each([
    ['<cat>'],
    ['cat', 'dog'],
    ['my.cat'],
    ['sks_cat2'],
    ['<a1>', '<a2>'],
    ['lora_girl', 'blow_up', 'three_layers_cake'],
  ])('are %s', async (...names) => {
    const { scheme, words } = await loadAdapter(await fileOf(names));
    expect([scheme, words.map(({ word }) => word).sort()]).toEqual(['embedding', names.toSorted()]);
  });

  const toK = 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k';
  it.each([
    [`${toK.replaceAll('.', '/')}/lora_up`],
    [toK.replaceAll('.', '_')],
    [`${toK.replaceAll('.', '_')}_lora_down`],
    ['lora_up'],
    ['layers.0.weight'],
    ['0', '1', '2', '3'],
    ['a:b'],
  ])('are not %s', async (...names) => {
    await expect(loadAdapter(await fileOf(names))).rejects.toThrow('no known layer');
  });

  it('are not one factor of a layer', async () => {
    await expect(loadAdapter(await fileOf([`unet.${toK}.lora_A`]))).rejects.toThrow('without lora_up');
  });

  it('have one width', async () => {
    const file = scratch('file.safetensors');
    await writeSafetensors(file, [matrix('cat', 1, 8), matrix('dog', 1, 16)]);
    await expect(loadAdapter(file)).rejects.toThrow('no known layer');
  });

  it('are as many vectors in a row as there are rows, sixteen too', async () => {
    const { words } = await loadAdapter(await fileOf(['<thing>'], [16, 8]));
    expect(words.map(({ rows }) => rows)).toEqual(['tokens']);
  });

  it('have one vector per layer where our header says so, and no word beside them', async () => {
    const file = scratch('words.safetensors');
    const [deep, flat] = [matrix('<deep>', 16, 8), matrix('<flat>', 16, 8)];
    const word = (embedding: typeof deep, rows: 'layers' | 'tokens') =>
      ({ word: embedding.name, embedding, rows, encoder: 'text_encoder' }) as const;
    const words = [word(deep, 'layers'), word(flat, 'tokens')];
    await writeWords(file, 'diffusers-embedding', words);
    const read = (await loadAdapter(file)).words.map(({ word: name, rows }) => [name, rows]);
    expect(new Map(read as [string, string][])).toEqual(
      new Map([
        ['<deep>', 'layers'],
        ['<flat>', 'tokens'],
      ]),
    );
    const [lost, ...others] = wordsUnsupportedBy('words.pt', 'diffusers-embedding', words);
    expect([lost?.name, others]).toEqual(['<deep>', []]);
    await writeSafetensors(file, [deep], { [LAYER_WISE_KEY]: '{}' });
    await expect(loadAdapter(file)).rejects.toThrow('expected a list of words');
  });

  /** A file of the original code: a token's id as a tensor, and beside it what the optimiser kept. */
  it.each([
    ['*', [], 'zqx'],
    ['*', [['name', '<inside>'] as const], '<inside>'],
    ['<sks>', [['name', '<inside>'] as const], '<sks>'],
  ])('are read of the original code with %s and %j', async (placeholder, named, word) => {
    const file = scratch('zqx.pt');
    const id = memoryTensor('', 'I64', [], new Uint8Array(8));
    const state = new Map([[0, new Map([['exp_avg', torchTensor(matrix('', 4, 8))]])]]);
    const content: [TorchValue, TorchValue][] = [
      ['string_to_token', new Map([[placeholder, torchTensor(id)]])],
      ['string_to_param', new Map([[placeholder, torchTensor(matrix('', 4, 8))]])],
      ['optimizer_state_dict', new Map<TorchValue, TorchValue>([['state', state]])],
    ];
    await writeTorchZip(file, new Map([...content, ...named]));
    const { words } = await loadAdapter(file);
    expect(words.map(({ word: own, embedding }) => [own, embedding.shape])).toEqual([[word, [4, 8]]]);
    await writeTorchZip(file, new Map([...content, ['other', torchTensor(matrix('', 4, 8))]]));
    await expect(loadAdapter(file)).rejects.toThrow('no known layer');
  });

  it('are called by their file where it holds one tensor and nothing else', async () => {
    const file = scratch('my cat.pt');
    await writeTorchZip(file, torchTensor(matrix('', 2, 8)));
    expect((await loadAdapter(file)).words.map(({ word }) => word)).toEqual(['my_cat']);
  });

  it('are not what a bare list holds', async () => {
    const file = scratch('list.pt');
    await writeTorchZip(file, new Map([0, 1].map((place) => [String(place), torchTensor(matrix('', 4, 8))])));
    await expect(loadAdapter(file)).rejects.toThrow('no known layer');
  });
});

describe('words in a LoRA file', () => {
  const toK = 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k';
  it('of a family with two text encoders say whose each vector is', async () => {
    const file = scratch('sdxl.safetensors');
    await writeSafetensors(file, [
      matrix(`${toK}.lora_down.weight`, 2, 2048),
      matrix(`${toK}.lora_up.weight`, 8, 2),
      matrix('bundle_emb.cat.clip_l', 2, 768),
    ]);
    const out = scratch('out.safetensors');
    const { notes } = await convertFile({ input: file, out, format: 'kohya', dtype: 'F16' });
    expect([...(await openTensorFile(out)).tensors.keys()]).toContain('bundle_emb.cat.clip_l');
    expect(notes).toEqual([expect.stringContaining('ComfyUI and diffusers do not')]);
  });
});

describe('what other programs make of words', () => {
  const word = (name: string, rows: 'layers' | 'tokens' = 'tokens') =>
    ({ word: name, embedding: matrix(name, 16, 8), rows, encoder: 'text_encoder' }) as const;
  it.each([
    ['kohya', [], []],
    ['kohya', [word('my.cat')], ['inside a LoRA', 'my.cat (my)']],
    ['diffusers-embedding', [word('a')], []],
    ['diffusers-embedding', [word('a'), word('b')], ['A1111 and diffusers refuse it']],
    ['diffusers-embedding', [word('a', 'layers')], ['16 tokens in a row']],
    ['xti', [word('a', 'layers')], []],
  ])('is said of %s with %j', (format, words, said) => {
    const notes = notesOnWords(format, words);
    expect(notes).toHaveLength(said.length);
    for (const [i, part] of said.entries()) expect(notes[i]).toContain(part);
  });
});
