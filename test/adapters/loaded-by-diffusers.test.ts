/** Ranks that differ by layer: what is written is what diffusers was seen to load with the right strength, layer by layer. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat64 } from '../../src/formats/raw-tensor.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { attentionLayers, denseOf, randomAdapter, scratch } from '../merging/random-adapters.ts';
import { casePath } from '../support/cases.ts';
import { relativeError } from '../support/close.ts';

const mixed = casePath('adapters', 'mixed_rank_kohya.safetensors');

/** What record.py hashed: tensors with their names and places, and diffusers' own header entry. */
function digest(file: string): string {
  const bytes = readFileSync(file);
  const end = 8 + Number(bytes.readBigUint64LE(0));
  const { __metadata__: said, ...header } = JSON.parse(bytes.toString('utf8', 8, end));
  const sorted = Object.keys(header)
    .sort()
    .map((name) => {
      const { data_offsets, dtype, shape } = header[name];
      return [name, { data_offsets, dtype, shape }];
    });
  return createHash('sha256')
    .update(JSON.stringify(sorted))
    .update(said?.lora_adapter_metadata ?? '')
    .update(bytes.subarray(end))
    .digest('hex');
}

const input = (file: string) => ({ path: file, strength: 1, textEncoderStrength: null, blockWeights: null });

/** Alphas of a kohya file. */
async function alphasOf(file: string): Promise<number[]> {
  const { tensors } = await openTensorFile(file);
  return [...tensors.values()]
    .filter(({ name }) => name.endsWith('.alpha'))
    .map((tensor) => readFloat64(tensor)[0]!);
}

describe('a LoRA of mixed ranks and alphas', () => {
  const recorded = JSON.parse(readFileSync(casePath('loaded', 'index.json'), 'utf8')) as {
    file: string;
    sha256: string;
    errors: Record<string, number>;
  }[];

  it.each(recorded)(
    'is written as the $file that both versions loaded right',
    async ({ file, sha256, errors }) => {
      const out = scratch(file);
      await convertFile({ input: mixed, out, format: path.parse(file).name as 'kohya' });
      expect(digest(out), 'written anew: record it again, see fixtures/cases/loaded').toBe(sha256);
      expect(Object.keys(errors)).toHaveLength(2);
      for (const error of Object.values(errors)) expect(error).toBeLessThan(1e-6);
      const { tensors } = await openTensorFile(casePath('loaded', 'changes.safetensors'));
      const { layers } = await loadAdapter(out);
      expect(layers.size).toBe(tensors.size);
      for (const { component, layerName, ...layer } of layers.values()) {
        const loaded = readFloat64(tensors.get(`${component}.${layerName}`)!);
        const own = denseOf({ component, layerName, ...layer } as Parameters<typeof denseOf>[0]);
        expect(relativeError(own, loaded), layerName).toBeLessThan(2e-6);
      }
    },
  );

  it('has the names of transformers 5 in PEFT folders, whole names only', async () => {
    const out = scratch('peft');
    await convertFile({ input: mixed, out, format: 'peft' });
    const place = path.join(out, 'text_encoder');
    const { tensors } = await openTensorFile(path.join(place, 'adapter_model.safetensors'));
    const names = [...tensors.keys()].map(
      (name) => /^base_model\.model\.(.+)\.lora_[AB]\.weight$/.exec(name)![1]!,
    );
    const config = JSON.parse(readFileSync(path.join(place, 'adapter_config.json'), 'utf8'));
    // As PEFT matches an expression.
    const targets = new RegExp(`^(?:${config.target_modules})$`);
    for (const name of names) {
      expect(name).toMatch(/^encoder\.layers\./);
      expect(name).toMatch(targets);
      expect(`text_model.${name}`).not.toMatch(targets);
    }
  });

  it('merges to one alpha for all layers, of unchanged sums', async () => {
    const [a, b] = ['merge_a', 'merge_b'].map((name) => casePath('adapters', `${name}.safetensors`));
    const out = scratch('merged.safetensors');
    await mergeFiles({ inputs: [input(a!), input(b!)], out, format: 'kohya' });
    expect(new Set(await alphasOf(out)).size).toBe(1);
    const { layers } = await loadAdapter(out);
    expect(new Set([...layers.values()].map(({ rank }) => rank)).size).toBeGreaterThan(1);
    const parts = [await loadAdapter(a!), await loadAdapter(b!)];
    for (const [id, layer] of layers) {
      const sum = new Float64Array(denseOf(layer).length);
      for (const own of parts.flatMap((part) => part.layers.get(id) ?? [])) {
        denseOf(own).forEach((value, i) => {
          sum[i]! += value;
        });
      }
      expect(relativeError(denseOf(layer), sum), id).toBeLessThan(1e-6);
    }
  });

  it('folds what no power of two can hold in float32, and what float16 cannot hold at all', async () => {
    const output = randomAdapter(attentionLayers, { seed: 2, rank: 4, loraAlpha: 4, dtype: 'F16' });
    const [first, second, ...rest] = output.layers;
    const odd = [{ ...first!, scale: 0.75 }, { ...second!, scale: 2 ** 18 }, ...rest];
    const out = scratch('odd.safetensors');
    await writeAdapter(out, 'kohya', { ...output, layers: odd });
    expect(new Set(await alphasOf(out))).toEqual(new Set([4]));
    const { layers } = await loadAdapter(out);
    const read = [...layers.values()];
    for (const layer of odd) {
      const other = read.find(({ layerName }) => layerName === layer.layerName)!;
      expect(relativeError(denseOf(other), denseOf(layer))).toBeLessThan(1e-7);
    }
  });
});
