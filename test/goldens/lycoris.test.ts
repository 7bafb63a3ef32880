import { describe, expect, it } from 'vitest';
import { layerDelta } from '../../src/adapters/delta.ts';
import { assembleLayer } from '../../src/adapters/layer-parts.ts';
import { type AdapterPart, partSuffix } from '../../src/adapters/schemes/suffixes.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { multiply } from '../../src/linalg/products.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Case {
  scale_used: number | null;
  file_keys: Record<string, number[]>;
}

const { cases } = goldenJson<{ cases: Record<string, Case> }>('goldens-fusion/merges/lycoris/lycoris.json');
const file = await openTensorFile(goldenPath('goldens-fusion/merges/lycoris/lycoris.safetensors'));
const partOf = new Map(
  Object.entries(partSuffix).map(([part, suffix]) => [suffix as string, part as AdapterPart]),
);
const module = { component: 'unet', layerName: 'down_blocks.0.resnets.0.conv1' } as const;
const linear = { ...module, layerName: 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q' };

describe.each(Object.entries(cases))('LyCORIS %s', (name, { scale_used, file_keys }) => {
  const tensor = (key: string): RawTensor => file.tensors.get(`${name}|${key}`)!;
  const base = tensor('base');
  const parts = new Map(
    Object.keys(file_keys).map((key) => [partOf.get(key)!, tensor(`file.${key}`)] as const),
  );
  const layer = assembleLayer(name, base.shape.length === 4 ? module : linear, parts, {
    architecture: 'sd1',
    // Rank-stabilised modules store alpha · √rank, so that one rule serves all files.
    scale: (_, rank, alpha) => (alpha ?? rank) / rank,
  });
  const dense = (strength: number): Float64Array => {
    const { up, down, scale } = layerDelta(layer, base);
    return multiply(up, down).data.map((value) => value * scale * strength);
  };

  it('is the change that the module makes', () => {
    if (scale_used !== null) expect(layer.scale).toBeCloseTo(scale_used, 12);
    // DoRA and (IA)³ store the weight afterwards, the others the change.
    const merged = file.tensors.has(`${name}|merged_1.0`);
    const expected = merged
      ? readFloat64(tensor('merged_1.0')).map((value, i) => value - readFloat64(base)[i]!)
      : readFloat64(tensor('delta'));
    expect(dense(1)).toBeAllClose(expected, { rtol: 1e-7 });
  });

  // Modules whose merge the reference wrote down at other multipliers.
  const multipliers = [...file.tensors.keys()]
    .filter((key) => key.startsWith(`${name}|merged_`))
    .map((key) => key.slice(`${name}|merged_`.length))
    .filter((multiplier) => Number(multiplier) !== 1);
  if (multipliers.length === 0) return;
  it.each(multipliers)('scales as its merge does, %s', (multiplier) => {
    const weights = readFloat64(base);
    const strength = Number(multiplier);
    const merged = dense(strength).map((value, i) => value + weights[i]!);
    // On purpose: of a DoRA at multiplier m LyCORIS keeps (1 − m) · ΔW unscaled, and at 0 the base is not the base.
    const unscaled = layer.doraScale === null ? null : readFloat64(tensor('delta'));
    const theirs = merged.map((value, i) => value + (unscaled === null ? 0 : (1 - strength) * unscaled[i]!));
    expect(theirs).toBeAllClose(readFloat64(tensor(`merged_${multiplier}`)), { rtol: 1e-7 });
  });
});
