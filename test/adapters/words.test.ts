/** What passes for words: only names and shapes that nothing else has. */
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
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
    [`unet.${toK}.lora_A`],
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

  it('have one width', async () => {
    const file = scratch('file.safetensors');
    await writeSafetensors(file, [matrix('cat', 1, 8), matrix('dog', 1, 16)]);
    await expect(loadAdapter(file)).rejects.toThrow('no known layer');
  });

  it('are not what a bare list holds', async () => {
    const file = scratch('list.pt');
    await writeTorchZip(file, new Map([0, 1].map((place) => [String(place), torchTensor(matrix('', 4, 8))])));
    await expect(loadAdapter(file)).rejects.toThrow('no known layer');
  });
});
