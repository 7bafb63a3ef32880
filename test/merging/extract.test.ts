/** What is taken out of the difference of two checkpoints, on single files of a few small layers. */
import { beforeAll, describe, expect, it } from 'vitest';
import { MismatchError, UsageError } from '../../src/errors.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { type ExtractOptions, extractAdapter, type LayerChoice } from '../../src/merging/extract.ts';
import { type ModelFiles, openModelFiles } from '../../src/merging/model-files.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { denseOf, scratch } from './random-adapters.ts';

const block = 'model.diffusion_model.input_blocks.1.1.transformer_blocks.0';
/** By their name in the file: the layer, and its shape. */
const tensors: Readonly<Record<string, readonly [string, number[]]>> = {
  [`${block}.attn1.to_q.weight`]: ['attn1.to_q', [7, 5]],
  [`${block}.attn2.to_k.weight`]: ['attn2.to_k', [6, 8]],
  [`${block}.ff.net.2.weight`]: ['ff.net.2', [5, 9]],
  'model.diffusion_model.input_blocks.1.1.proj_in.weight': ['attentions.0.proj_in', [6, 6, 1, 1]],
  'model.diffusion_model.input_blocks.1.0.emb_layers.1.weight': ['time_emb_proj', [8, 5]],
  'model.diffusion_model.input_blocks.1.0.in_layers.2.weight': ['resnets.0.conv1', [4, 5, 3, 3]],
  [`${block}.attn1.to_out.0.bias`]: ['', [7]],
};

/** @param without a tensor, or with another shape of it */
async function write(
  seed: number,
  others: Readonly<Record<string, number[] | null>> = {},
): Promise<ModelFiles> {
  const random = new TorchGenerator(seed);
  const all = Object.entries(tensors).flatMap(([name, [, shape]]): RawTensor[] => {
    const own = others[name] === undefined ? shape : others[name];
    if (own === null) return [];
    return [float32Tensor(name, own, random.randn(own.reduce((a, b) => a * b)))];
  });
  const file = scratch('model.safetensors');
  await writeSafetensors(file, all);
  return openModelFiles(file);
}

let base: ModelFiles;
let tuned: ModelFiles;
beforeAll(async () => {
  [base, tuned] = [await write(1), await write(2)];
});
const extract = (options: Partial<ExtractOptions> = {}, after = tuned, before = base) =>
  extractAdapter(after, before, { rank: 1, ...options });
/** The layers of a result by the end of their names. */
const namesOf = (ids: readonly { readonly id: string }[]): string[] =>
  ids.map(({ id }) => Object.values(tensors).find(([end]) => end !== '' && id.endsWith(end))![0]);

describe('extraction', () => {
  it.each<[LayerChoice, string[]]>([
    ['attention', ['attn1.to_q', 'attn2.to_k']],
    ['transformer', ['attn1.to_q', 'attn2.to_k', 'attentions.0.proj_in', 'ff.net.2']],
    ['linear', ['attn1.to_q', 'attn2.to_k', 'attentions.0.proj_in', 'ff.net.2', 'time_emb_proj']],
    [
      'all',
      ['attn1.to_q', 'attn2.to_k', 'attentions.0.proj_in', 'ff.net.2', 'resnets.0.conv1', 'time_emb_proj'],
    ],
  ])('of %s takes these layers, and names the others', async (layers, expected) => {
    const { layers: taken, unsupported } = await extract({ layers });
    expect(namesOf(taken).sort()).toEqual(expected.toSorted());
    expect(unsupported).toHaveLength(Object.keys(tensors).length - expected.length);
    for (const { reason } of unsupported) expect(reason).toMatch(/changed by up to \d\S*, not among/);
  });

  it('takes transformers in float32 where nothing is said', async () => {
    const { output, layers } = await extract();
    expect(namesOf(layers)).toEqual(namesOf((await extract({ layers: 'transformer' })).layers));
    expect(output.layers.every((layer) => layer.kind === 'lora' && layer.up.dtype === 'F32')).toBe(true);
  });

  it('has the ranks asked for, at most those of the layer, and says what is lost', async () => {
    const { output, layers } = await extract({ rank: 6, convRank: 2, layers: 'all' });
    for (const [i, { id, rank, relativeError, norm }] of layers.entries()) {
      const [after, before] = [tuned, base].map(({ weights }) => weights.get(id)!);
      const shape = after!.shape;
      const wide = shape.length === 4 && shape[2] === 3;
      expect(rank, id).toBe(wide ? 2 : Math.min(6, shape[0]!, shape[1]!));
      const change = Float64Array.from(readFloat32(after!), (x, k) => x - readFloat32(before!)[k]!);
      const rest = denseOf(output.layers[i]!).map((x, k) => x - change[k]!);
      expect(norm, id).toBeCloseTo(Math.hypot(...change), 4);
      expect(relativeError, id).toBeCloseTo(Math.hypot(...rest) / Math.hypot(...change), 4);
      if (!wide && rank === Math.min(shape[0]!, shape[1]!)) expect(relativeError, id).toBeLessThan(1e-5);
      else expect(relativeError, id).toBeGreaterThan(0.1);
    }
    const plain = await extract({ rank: 3, layers: 'all' });
    expect(plain.layers.map(({ rank }) => rank)).toEqual(plain.layers.map(() => 3));
  });

  it('leaves out what changed by no more than a limit', async () => {
    const changed = (await extract({ layers: 'all' })).unsupported;
    expect(changed).toHaveLength(1);
    await expect(extract({ minDifference: 100 })).rejects.toThrow(/do not differ in the layers chosen$/);
    await expect(extract({}, base, base)).rejects.toThrow(UsageError);
    await expect(
      extract({ layers: 'attention' }, tuned, await write(1, { [`${block}.attn1.to_q.weight`]: null })),
    ).resolves.toMatchObject({
      unsupported: expect.arrayContaining([
        { name: `${block}.attn1.to_q.weight`, reason: 'only in the tuned model' },
      ]),
    });
  });

  it('counts the tensors it has compared', async () => {
    const told: [number, number][] = [];
    await extract({ onProgress: ({ done, total }) => told.push([done, total]) });
    const count = Object.keys(tensors).length;
    expect(told).toEqual(Array.from({ length: count }, (_, i) => [i + 1, count]));
  });

  it('refuses other shapes, ranks below 1 and limits below 0', async () => {
    const other = await write(2, { [`${block}.attn1.to_q.weight`]: [7, 6] });
    await expect(extract({}, other)).rejects.toThrow(MismatchError);
    await expect(extract({}, other)).rejects.toThrow(/expected \[7, 5\] as in .*, got \[7, 6\]/);
    for (const wrong of [{ rank: 0 }, { rank: 1.5 }, { convRank: 0 }, { minDifference: -1 }])
      await expect(extract(wrong), JSON.stringify(wrong)).rejects.toThrow(UsageError);
  });
});
