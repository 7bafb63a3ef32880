import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { scaledDelta } from '../../src/adapters/delta.ts';
import { sshsHashes } from '../../src/adapters/metadata.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { loraNamings, type MergedLayer, writeEmbeddings, writeLora } from '../../src/concepts/lora-file.ts';
import { NumericalError, ShapeError, UsageError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readBytes, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { multiply } from '../../src/linalg/products.ts';
import { moduleId } from '../../src/models/keys/module-path.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';
import { tokenOf, vectorsOf } from '../support/tokens.ts';
import { scratch, tensor } from './support.ts';

/** Layers of every kind: linear, 1×1 and 3×3 convolution, text encoder. */
const places: Pick<MergedLayer, 'component' | 'layerName' | 'kernel'>[] = [
  {
    component: 'unet',
    layerName: 'mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0',
    kernel: null,
  },
  { component: 'unet', layerName: 'mid_block.attentions.0.proj_in', kernel: [1, 1] },
  { component: 'unet', layerName: 'down_blocks.0.resnets.1.conv1', kernel: [3, 3] },
  { component: 'text_encoder', layerName: 'text_model.encoder.layers.11.mlp.fc1', kernel: null },
];

const layerSet: fc.Arbitrary<MergedLayer[]> = fc
  .tuple(
    ...places.map((place) =>
      fc
        .record({
          rank: fc.integer({ min: 1, max: 5 }),
          m: fc.integer({ min: 1, max: 6 }),
          n: fc.integer({ min: 1, max: 6 }),
        })
        .chain(({ rank, m, n }) => {
          const area = place.kernel === null ? 1 : place.kernel[0] * place.kernel[1];
          const numbers = (length: number) =>
            fc.float32Array({ minLength: length, maxLength: length, min: -8, max: 8, noNaN: true });
          return fc.record({
            component: fc.constant(place.component),
            layerName: fc.constant(place.layerName),
            kernel: fc.constant(place.kernel),
            rank: fc.constant(rank),
            up: numbers(m * rank),
            down: numbers(rank * n * area),
            loraAlpha: fc.constantFrom(rank, 2 * rank, rank / 2),
          });
        }),
    ),
  )
  .chain((layers) => fc.shuffledSubarray(layers, { minLength: 1 }));

function delta({ up, down, rank, loraAlpha = rank }: MergedLayer): Float64Array {
  const factor = loraAlpha / rank;
  return multiply(
    { rows: up.length / rank, cols: rank, data: Float64Array.from(up, (value) => value * factor) },
    { rows: rank, cols: down.length / rank, data: Float64Array.from(down) },
  ).data;
}

function target(naming: string): string {
  return scratch(naming === 'peft' ? 'adapter' : naming === 'edlora-torch' ? 'lora.pth' : 'lora.safetensors');
}

describe('writeLora', () => {
  it.each([...loraNamings, 'edlora-torch' as const])(
    '%s: what is read back means the same',
    async (naming) => {
      await fc.assert(
        fc.asyncProperty(layerSet, async (all) => {
          const isEdLora = naming === 'ed-lora' || naming === 'edlora-torch';
          const layers = all.filter(({ kernel }) => !isEdLora || kernel?.[0] !== 3);
          fc.pre(layers.length > 0);
          const file = target(naming);
          await writeLora(file, layers, { naming: naming === 'edlora-torch' ? 'ed-lora' : naming });
          const concept = await loadConcept(file);
          expect(new Set(concept.layers.keys())).toEqual(new Set(layers.map(moduleId)));
          for (const layer of layers) {
            const read = concept.layers.get(moduleId(layer))!;
            if (naming !== 'kohya') expect(read.scale).toBe(1);
            expect(read.rank).toBe(layer.rank);
            expect(read.up.shape).toHaveLength(layer.kernel === null ? 2 : 4);
            expect(read.down.shape.slice(2)).toEqual(layer.kernel ?? []);
            const { up, down } = scaledDelta(read);
            expect(multiply(up, down).data).toBeAllClose(delta(layer), { rtol: 1e-6, atol: 1e-30 });
          }
        }),
        { numRuns: 15 },
      );
    },
  );

  const layers: MergedLayer[] = [
    { ...places[0]!, rank: 2, up: Float32Array.of(1, 2, 3, 4), down: Float32Array.of(5, 6, 7, 8) },
    { ...places[3]!, rank: 1, up: Float32Array.of(1, 2), down: Float32Array.of(3) },
  ];

  it('describes itself as kohya and ModelSpec ask, with the hashes of its tensors', async () => {
    const file = target('kohya');
    const tokens = [tokenOf('<a1>', tensor('e', [2, 3]))];
    await writeLora(file, layers, {
      title: 'two',
      mergedFrom: ['a', 'b'],
      tokens,
      metadata: { recipe: '{}' },
    });
    const { metadata } = await openTensorFile(file);
    const required = goldenJson<{ minimum_for_merges: string[] }>('goldens-fusion/keys/metadata.json');
    for (const key of required.minimum_for_merges) expect(metadata.has(key), key).toBe(true);
    expect(Object.fromEntries(metadata)).toMatchObject({
      ss_network_dim: 'Dynamic',
      'modelspec.sai_model_spec': '1.0.1',
      'modelspec.architecture': 'stable-diffusion-v1/lora',
      'modelspec.title': 'two',
      'modelspec.merged_from': 'a, b',
      'modelspec.trigger_phrase': '<a1>',
      recipe: '{}',
    });
    const { modelHash } = await sshsHashes(file);
    expect(metadata.get('sshs_model_hash')).toBe(modelHash);
    expect(metadata.get('modelspec.hash_sha256')).toBe(`0x${modelHash}`);
    expect(metadata.get('sshs_legacy_hash')).toBe('e3b0c442');
    expect(readdirSync(path.dirname(file))).toEqual(['lora.safetensors']);
  });

  it('writes equal files for equal input', async () => {
    const [a, b] = [target('kohya'), target('kohya')];
    await writeLora(a, layers);
    await writeLora(b, layers);
    expect(readFileSync(a).equals(readFileSync(b))).toBe(true);
  });

  it('keeps alpha exact whatever the dtype', async () => {
    for (const dtype of ['F16', 'BF16'] as const) {
      const file = target('kohya');
      const rank = 257;
      const up = new Float32Array(rank).fill(1);
      await writeLora(file, [{ ...places[0]!, rank, up, down: up }], { dtype });
      const [layer] = (await loadConcept(file)).layers.values();
      expect(layer!.up.dtype).toBe(dtype);
      expect(layer!.scale).toBe(1);
    }
  });

  it('stores words and embeddings in the ED-LoRA forms', async () => {
    const tokens = [tokenOf('<b>', tensor('x', [2, 3])), tokenOf('<a>', tensor('y', [2, 3]))];
    for (const naming of ['ed-lora', 'edlora-torch']) {
      const file = target(naming);
      await writeLora(file, layers, { naming: 'ed-lora', tokens });
      const concept = await loadConcept(file);
      expect(concept.format).toBe('ed-lora');
      expect(new Set(concept.tokens.map(({ word }) => word))).toEqual(new Set(['<a>', '<b>']));
      expect(concept.tokens.map((token) => vectorsOf(token).shape)).toEqual([
        [2, 3],
        [2, 3],
      ]);
    }
    const file = scratch('embeddings.safetensors');
    await writeEmbeddings(file, tokens);
    const { tensors } = await openTensorFile(file);
    expect(readFloat32(tensors.get('<b>')!)).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
    await expect(writeEmbeddings(file, [...tokens, tokens[0]!])).rejects.toThrow(UsageError);
  });

  it('keeps the order of words in safetensors too', async () => {
    const tokens = ['<z1>', '<a2>'].map((word) => tokenOf(word, tensor('x', [2, 3])));
    const file = target('ed-lora');
    await writeLora(file, layers, { naming: 'ed-lora', tokens });
    expect((await loadConcept(file)).tokens.map(({ word }) => word)).toEqual(['<z1>', '<a2>']);
  });

  it('gives PEFT a scale of 1 at every rank', async () => {
    const folder = target('peft');
    const other = {
      ...layers[1]!,
      component: 'unet' as const,
      layerName: 'mid_block.resnets.0.time_emb_proj',
    };
    await writeLora(folder, [layers[0]!, other], { naming: 'peft' });
    expect(readdirSync(folder).filter((name) => !name.startsWith('.'))).toEqual(['unet']);
    const config: unknown = JSON.parse(readFileSync(path.join(folder, 'unet/adapter_config.json'), 'utf8'));
    expect(config).toMatchObject({ r: 2, lora_alpha: 2, rank_pattern: { [other.layerName]: 1 } });
    for (const layer of (await loadConcept(folder)).layers.values()) expect(layer.scale).toBe(1);
  });

  it('refuses what cannot be written, and leaves nothing behind', async () => {
    const file = target('kohya');
    const layer = layers[0]!;
    const write = (wrong: MergedLayer[], options = {}) => writeLora(file, wrong, options);
    await expect(write([layer, layer])).rejects.toThrow(UsageError);
    await expect(write([{ ...layer, rank: 3 }])).rejects.toThrow(ShapeError);
    await expect(write([{ ...layer, rank: 0 }])).rejects.toThrow(ShapeError);
    await expect(write([{ ...layer, kernel: [3, 3] }])).rejects.toThrow(ShapeError);
    await expect(write([{ ...layer, up: Float32Array.of(1, Number.NaN, 3, 4) }])).rejects.toThrow(
      NumericalError,
    );
    const large = { ...layer, up: Float32Array.of(1, 70000, 3, 4) };
    await expect(write([large], { dtype: 'F16' })).rejects.toThrow(/F16 can hold/);
    expect(readdirSync(path.dirname(file))).toEqual([]);
    await write([large], { dtype: 'BF16' });
  });
});

describe('sshsHashes', () => {
  interface Hashes {
    hash_small: { sshs_model_hash: string; addnet_legacy_of_saved_file: string };
    recipe_large: { sshs_model_hash: string; sshs_legacy_hash: string };
  }
  const golden = goldenJson<Hashes>('goldens-fusion/keys/hashes.json');

  it('are those of sd-scripts', async () => {
    const small = await sshsHashes(goldenPath('goldens-fusion/keys/hash_small.safetensors'));
    expect(small.modelHash).toBe(golden.hash_small.sshs_model_hash);
    expect(small.legacyHash).toBe(golden.hash_small.addnet_legacy_of_saved_file);

    // The recipe in the index: length 16, 16 bytes, then 0x120000 bytes (7 j + ⌊j / 251⌋) mod 256.
    const body = Uint8Array.from({ length: 0x120000 }, (_, j) => (7 * j + Math.floor(j / 251)) % 256);
    const file = scratch('large.bin');
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(16n);
    writeFileSync(file, Buffer.concat([length, Buffer.from('{"__metadata__":'), body]));
    const large = await sshsHashes(file);
    expect(large.modelHash).toBe(golden.recipe_large.sshs_model_hash);
    expect(large.legacyHash).toBe(golden.recipe_large.sshs_legacy_hash);
  });
});

describe('a shipped concept', () => {
  it('survives every naming bit for bit', async () => {
    const source = await loadConcept(
      path.join(import.meta.dirname, '../../fixtures/tiny-world/concepts/edlora_checker.pth'),
    );
    const merged = [...source.layers.values()].map(
      ({ component, layerName, rank, up, down }): MergedLayer => ({
        component,
        layerName,
        rank,
        up: readFloat32(up),
        down: readFloat32(down),
        kernel: down.shape.length === 4 ? [down.shape[2]!, down.shape[3]!] : null,
      }),
    );
    for (const naming of loraNamings) {
      const file = target(naming);
      await writeLora(file, merged, { naming });
      const concept = await loadConcept(file);
      expect(concept.layers.size).toBe(source.layers.size);
      for (const [id, { up, down }] of source.layers) {
        const read = concept.layers.get(id)!;
        expect(readFloat32(read.up)).toEqual(readFloat32(up));
        expect(
          Buffer.from(readBytes(read.down)).equals(
            Buffer.from(new Uint8Array(readFloat32(down).slice().buffer)),
          ),
        ).toBe(true);
      }
      expect(statSync(file)).toBeDefined();
    }
  });
});
