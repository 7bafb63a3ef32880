/** `program` in place of a scheme: the one that it reads, and what it does not read of the file. */
import { describe, expect, it } from 'vitest';
import type { AdapterLayer, AdapterWord } from '../../src/adapters/adapter.ts';
import { formatFor, programNames, unreadBy } from '../../src/adapters/programs.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { UsageError } from '../../src/errors.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { casePath } from '../support/cases.ts';
import { attentionLayers, randomAdapter, scratch } from './random-adapters.ts';

const plain = randomAdapter(attentionLayers, { seed: 1, rank: 2, loraAlpha: 2, dtype: 'F32' });
const [first] = plain.layers;
const numbers = (count: number): Float32Array => new Float32Array(count).fill(1);
const loha = (): AdapterLayer => {
  const pair = {
    a: float32Tensor('a', [8, 1], numbers(8)),
    b: float32Tensor('b', [1, 8], numbers(8)),
    core: null,
  };
  return { ...first!, kind: 'loha', w1: pair, w2: pair, rank: 1 } as AdapterLayer;
};
const dora = (shape: number[]): AdapterLayer => ({
  ...first!,
  doraScale: float32Tensor('d', shape, numbers(shape[0]! * shape[1]!)),
});
const word: AdapterWord = {
  word: 'cat',
  embedding: float32Tensor('cat', [1, 8], numbers(8)),
  rows: 'tokens',
  encoder: 'text_encoder',
};
const held = (layers: readonly AdapterLayer[], words: readonly AdapterWord[] = []) => ({
  architecture: 'sd1',
  layers,
  words,
});

describe('the scheme', () => {
  it.each([
    ['comfyui', 'kohya', 'lycoris'],
    ['a1111', 'kohya', 'lycoris'],
    ['diffusers', 'diffusers', 'diffusers'],
    ['peft', 'peft', 'peft'],
    ['sd-scripts', 'kohya', 'kohya'],
    ['stable-diffusion.cpp', 'kohya', 'kohya'],
    ['mix-of-show', 'ed-lora', 'ed-lora'],
  ] as const)('of %s is %s, with other kinds %s', (name, format, kinds) => {
    expect(formatFor(name, held(plain.layers))).toBe(format);
    expect(formatFor(name, held([...plain.layers.slice(1), loha()]))).toBe(kinds);
    expect(formatFor(name, held([...plain.layers.slice(1), dora([1, 8])]))).toBe(kinds);
    // Another change there: it becomes a LoRA, for which the base is asked for.
    expect(formatFor(name, held([...plain.layers.slice(1), dora([8, 1])]))).toBe(format);
  });

  it('of words alone has one or two text encoders', () => {
    expect(formatFor('comfyui', held([], [word]))).toBe('kohya-embedding');
    expect(formatFor('diffusers', held([], [word]))).toBe('diffusers-embedding');
    expect(formatFor('diffusers', held([], [word, { ...word, encoder: 'text_encoder_2' }]))).toBe(
      'sdxl-embedding',
    );
  });

  it('is asked for once', async () => {
    const job = {
      input: casePath('adapters', 'mixed_rank_kohya.safetensors'),
      out: scratch('o.safetensors'),
    };
    await expect(convertFile(job)).rejects.toThrow(UsageError);
    await expect(convertFile({ ...job, format: 'kohya', program: 'peft' })).rejects.toThrow(UsageError);
  });
});

describe('what is not read', () => {
  const second = (part: string): AdapterLayer => ({
    ...first!,
    component: 'text_encoder_2',
    layerName: `text_model.encoder.layers.0.self_attn.${part}_proj`,
  });
  const timeEmbedding = { ...first!, layerName: 'time_embedding.linear_1' };

  it('is said by layers', () => {
    expect(unreadBy('sd-scripts', held([timeEmbedding, first!]))).toEqual([
      'sd-scripts (networks.lora) does not read one layer, a layer outside of the blocks: unet:time_embedding.linear_1',
    ]);
    const three = ['q', 'k', 'v'].map(second);
    expect(unreadBy('a1111', { ...held(three), architecture: 'sdxl' })[0]).toMatch(
      /does not read 3 layers, one of q, k, v/,
    );
    expect(unreadBy('a1111', { ...held([...three, second('out')]), architecture: 'sdxl' })).toEqual([]);
  });

  it('is said of words', () => {
    for (const name of programNames) {
      const notes = unreadBy(name, held(plain.layers, [word]));
      expect(
        notes.some((note) => note.includes('words inside a LoRA file: cat')),
        name,
      ).toBe(name !== 'a1111' && name !== 'mix-of-show');
    }
  });

  it('is told by the job, DoRA over outputs too', async () => {
    const input = scratch('in.safetensors');
    await writeAdapter(input, 'kohya', { ...plain, layers: [timeEmbedding, first!] });
    const done = await convertFile({ input, out: scratch('out.safetensors'), program: 'sd-scripts' });
    expect(done.notes.join()).toContain('unet:time_embedding.linear_1');
    expect((await loadAdapter(done.out)).scheme).toBe('kohya');
    const magnitudes = scratch('dora.safetensors');
    const { up } = first as Extract<AdapterLayer, { kind: 'lora' }>;
    await writeAdapter(magnitudes, 'lycoris', { ...plain, layers: [dora([up.shape[0]!, 1])] });
    const kept = await convertFile({
      input: magnitudes,
      out: scratch('kept.safetensors'),
      format: 'lycoris',
    });
    expect(kept.notes.join()).toMatch(
      /DoRA in 1 layer: .*over outputs, ComfyUI and A1111 compute another change/,
    );
    const base = {
      base: () => float32Tensor('w', [up.shape[0]!, 10], new Float32Array(up.shape[0]! * 10).fill(0.3)),
    };
    const { output } = await convertAdapter(await loadAdapter(magnitudes), 'kohya', { ...base, rank: 100 });
    expect(output.layers.map(({ kind, doraScale }) => [kind, doraScale])).toEqual([['lora', null]]);
    const resolved = convertFile({ input: magnitudes, out: scratch('lora.safetensors'), program: 'comfyui' });
    await expect(resolved).rejects.toThrow(/name the base model with `base`/);
  });
});
