/** Baking into files of other kinds than the shipped folder: single files, and every dtype. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeAdapter } from '../../src/adapters/write.ts';
import { decodeFloat32, encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { memoryTensor, readBytes, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { denseOf, randomAdapter, scratch } from './random-adapters.ts';

const layerName = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q';
const stored = 'model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight';
const layers = [{ module: { component: 'unet' as const, layerName }, kernel: null, m: 24, n: 18 }];
/** Half a unit in the last place, relative. */
const rounding = { F32: 1e-6, F16: 2 ** -11, BF16: 2 ** -8 };

describe.each(['F32', 'F16', 'BF16'] as const)('a single file of %s', (from) => {
  it.each(['F32', 'F16', 'BF16'] as const)('baked as %s', async (to) => {
    const generator = new TorchGenerator(3);
    const weight = (name: string, shape: number[]) =>
      memoryTensor(name, from, shape, encodeFloat(generator.randn(shape.reduce((a, b) => a * b, 1)), from));
    const other = weight('model.diffusion_model.input_blocks.0.0.weight', [3, 4, 3, 3]);
    const before = weight(stored, [24, 18]);
    const base = scratch('model.safetensors');
    await writeSafetensors(base, [before, other], { note: 'kept' });
    const adapter = randomAdapter(layers, { seed: 4, rank: 3, loraAlpha: 2, dtype: 'F32' });
    const lora = scratch('lora.safetensors');
    await writeAdapter(lora, 'kohya', adapter);
    const out = scratch('baked.safetensors');
    const input = { path: lora, strength: -0.7, textEncoderStrength: null, blockWeights: null };
    await bakeFiles({ base, inputs: [input], out, dtype: to });
    const { tensors, metadata } = await openTensorFile(out);
    expect(metadata.get('note')).toBe('kept');
    const weights = readFloat32(before);
    const expected = denseOf(adapter.layers[0]!).map((value, i) => weights[i]! - 0.7 * value);
    const baked = tensors.get(stored)!;
    expect(baked.dtype).toBe(to);
    readFloat32(baked).forEach((value, i) => {
      expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(
        rounding[to] * Math.abs(expected[i]!) + 1e-5,
      );
    });
    const rest = tensors.get(other.name)!;
    expect([rest.dtype, rest.shape]).toEqual([to, other.shape]);
    const kept = readFloat32(other);
    if (from === to) expect(readBytes(rest)).toEqual(readBytes(other));
    decodeFloat32(readBytes(rest), to).forEach((value, i) => {
      expect(Math.abs(value - kept[i]!)).toBeLessThanOrEqual(
        to === 'F32' ? 0 : rounding[to] * Math.abs(kept[i]!) + 2 ** -25,
      );
    });
  });
});

it('refuses sums that halves cannot hold, and leaves nothing behind', async () => {
  const base = scratch('model.safetensors');
  const values = new Float32Array(24 * 18).fill(65_000);
  await writeSafetensors(base, [memoryTensor(stored, 'F16', [24, 18], encodeFloat(values, 'F16'))]);
  const lora = scratch('lora.safetensors');
  await writeAdapter(lora, 'kohya', randomAdapter(layers, { seed: 4, rank: 3, loraAlpha: 2, dtype: 'F32' }));
  const out = scratch('baked.safetensors');
  const input = { path: lora, strength: 1e4, textEncoderStrength: null, blockWeights: null };
  await expect(bakeFiles({ base, inputs: [input], out })).rejects.toThrow(
    'expected numbers that F16 can hold',
  );
  expect(readdirSync(path.dirname(out))).toEqual([]);
  // What was there before stays, to the byte.
  writeFileSync(out, 'older');
  await expect(bakeFiles({ base, inputs: [input], out })).rejects.toThrow();
  expect(readdirSync(path.dirname(out))).toEqual([path.basename(out)]);
  expect(readFileSync(out, 'utf8')).toBe('older');
});
