/** Baking into files of other kinds than the shipped folder: single files, and every dtype. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { AdapterModule } from '../../src/adapters/adapter.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { decodeFloat32, dtypeWidth, encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, memoryTensor, readBytes, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import type { Progress } from '../../src/progress.ts';
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
    const told: Progress[] = [];
    await bakeFiles({ base, inputs: [input], out, dtype: to, onProgress: (now) => told.push({ ...now }) });
    const bytes = (24 * 18 + 3 * 4 * 3 * 3) * dtypeWidth(to);
    expect(told.every(({ total }) => total === bytes)).toBe(true);
    expect(told.map(({ done }) => done)).toEqual(told.map(({ done }) => done).toSorted((a, b) => a - b));
    expect(told.at(-1)!.done).toBe(bytes);
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

describe('an SDXL single file', () => {
  const prefix = 'conditioner.embedders.1.model';
  const attention = `${prefix}.transformer.resblocks.0.attn`;
  const D = 8;
  const text = (name: string) => ({ component: 'text_encoder_2' as const, layerName: name });
  const own = 'text_model.encoder.layers.0.self_attn';
  const layer = (module: AdapterModule) => ({ module, kernel: null, m: D, n: D });
  const context = 'down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k';

  it('has queries, keys and values of its second text encoder in one matrix', async () => {
    const generator = new TorchGenerator(3);
    const weight = (name: string, shape: number[]) =>
      float32Tensor(name, shape, generator.randn(shape.reduce((a, b) => a * b, 1)));
    const fused = weight(`${attention}.in_proj_weight`, [3 * D, D]);
    const out = weight(`${attention}.out_proj.weight`, [D, D]);
    const stem = weight(
      'model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight',
      [6, 2048],
    );
    const base = scratch('sdxl.safetensors');
    const projection = weight(`${prefix}.text_projection`, [D, 5]);
    await writeSafetensors(base, [fused, out, stem, projection]);
    const changed = [
      layer(text(`${own}.q_proj`)),
      layer(text(`${own}.v_proj`)),
      layer(text(`${own}.out_proj`)),
      { ...layer(text('text_projection')), m: 5 },
      { module: { component: 'unet' as const, layerName: context }, kernel: null, m: 6, n: 2048 },
    ];
    const adapter = {
      ...randomAdapter(changed, { seed: 5, rank: 2, loraAlpha: 1, dtype: 'F32' }),
      architecture: 'sdxl' as const,
    };
    const lora = scratch('lora.safetensors');
    await writeAdapter(lora, 'kohya', adapter);
    const target = scratch('baked.safetensors');
    const input = { path: lora, strength: 0.5, textEncoderStrength: null, blockWeights: null };
    const { dropped } = await bakeFiles({ base, inputs: [input], out: target });
    expect(dropped).toEqual([]);
    const { tensors } = await openTensorFile(target);
    const change = (name: string) => denseOf(adapter.layers.find(({ layerName }) => layerName === name)!);
    const right = readFloat32(fused).slice();
    change(`${own}.q_proj`).forEach((value, i) => {
      right[i]! += 0.5 * value;
    });
    change(`${own}.v_proj`).forEach((value, i) => {
      right[2 * D * D + i]! += 0.5 * value;
    });
    expect(readFloat32(tensors.get(fused.name)!)).toBeAllClose(right, { rtol: 1e-6 });
    // It stands there transposed.
    const turned = readFloat32(projection).map(
      (value, i) => value + 0.5 * change('text_projection')[(i % 5) * D + Math.floor(i / 5)]!,
    );
    expect(readFloat32(tensors.get(projection.name)!)).toBeAllClose(turned, { rtol: 1e-6 });
    const outRight = readFloat32(out).map((value, i) => value + 0.5 * change(`${own}.out_proj`)[i]!);
    expect(readFloat32(tensors.get(out.name)!)).toBeAllClose(outRight, { rtol: 1e-6 });
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
