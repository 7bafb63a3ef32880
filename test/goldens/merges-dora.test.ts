/** DoRA in PEFT's and diffusers' files: base and change make the weights that PEFT's own merge_and_unload makes. */
import { describe, expect, it } from 'vitest';
import { layerDelta, needsBase } from '../../src/adapters/delta.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { mergeAdapters } from '../../src/merging/merge.ts';
import { scratch } from '../merging/random-adapters.ts';
import { goldenPath, hasGolden } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/merges/dora';
// This part was added to the shipped set; older sets have no such folder.
const present = hasGolden(FOLDER);
const tensors: ReadonlyMap<string, RawTensor> = present
  ? (await openTensorFile(goldenPath(FOLDER, 'weights.safetensors'))).tensors
  : new Map();
const names = [...tensors.keys()].filter((name) => name.startsWith('base.')).map((name) => name.slice(5));
const base = ({ layerName }: { layerName: string }) => tensors.get(`base.${layerName}`);
const merged = (name: string): Float64Array => readFloat64(tensors.get(`merged.${name}`)!);

describe.skipIf(!present).each(['peft', 'diffusers'])('%s', (form) => {
  const file = goldenPath(FOLDER, form);

  it('merges as PEFT does', async () => {
    const { scheme, layers, unusable } = await loadAdapter(file);
    expect(scheme).toBe(form);
    expect(unusable).toEqual([]);
    expect([...layers.keys()].sort()).toEqual(names.map((name) => `unet:${name}`).sort());
    for (const [id, layer] of layers) {
      const name = id.slice(5);
      expect(needsBase(layer)).toBe(true);
      const delta = layerDelta(layer, base(layer));
      const weight = readFloat64(base(layer)!).map(
        (value, i) => value + delta.scale * toDense(delta).data[i]!,
      );
      expect(weight).toBeAllClose(merged(name), { rtol: 2e-6, atol: 2e-7 });
    }
  });

  it('scales linearly with the strength, and becomes LoRA', async () => {
    const adapter = await loadAdapter(file);
    await expect(mergeAdapters([{ adapter }])).rejects.toThrow('name the base model with `base`');
    const { output } = await mergeAdapters([{ adapter, strength: -0.5 }], { base });
    for (const layer of output.layers) {
      const change = toDense(layerDelta(layer)).data;
      const before = readFloat64(base(layer)!);
      const expected = merged(layer.layerName).map((value, i) => -0.5 * (value - before[i]!));
      expect(change).toBeAllClose(expected, { rtol: 1e-5, atol: 1e-6 });
    }
  });

  it('keeps its magnitudes in LyCORIS files', async () => {
    const out = scratch('dora.safetensors');
    const { output, converted } = await convertAdapter(await loadAdapter(file), 'lycoris');
    expect(converted).toEqual([]);
    await writeAdapter(out, 'lycoris', output);
    for (const [id, layer] of (await loadAdapter(out)).layers) {
      expect(layer.doraScale).not.toBeNull();
      const weight = readFloat64(base(layer)!);
      const { data } = toDense(layerDelta(layer, base(layer)));
      expect(weight.map((value, i) => value + data[i]!)).toBeAllClose(merged(id.slice(5)), {
        rtol: 2e-6,
        atol: 2e-7,
      });
    }
  });

  it('is refused by name where only plain LoRA will do', async () => {
    await expect(loadConcept(file)).rejects.toThrow(/DoRA|use_dora/);
  });
});
