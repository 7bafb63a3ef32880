/** Every scheme against every other, for every kind of layer; and a scheme that only this test knows. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AdapterLayer } from '../../src/adapters/adapter.ts';
import { layerDelta, needsBase } from '../../src/adapters/delta.ts';
import { loadAdapter, readAdapter } from '../../src/adapters/read.ts';
import { type LayerFormat, layerFormats, SCHEME_TABLE, schemes } from '../../src/adapters/schemes/index.ts';
import type { FactorKey, Scheme } from '../../src/adapters/schemes/scheme.ts';
import { type OutputAdapter, unsupportedBy, writeAdapter } from '../../src/adapters/write.ts';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { memoryTensor, type RawTensor, renamed } from '../../src/formats/raw-tensor.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { mergeAdapters } from '../../src/merging/merge.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { attentionLayers, denseOf, randomAdapter, scratch } from '../merging/random-adapters.ts';
import { relativeError } from '../support/close.ts';

const random = new TorchGenerator(17n);
const draw = (...shape: number[]): RawTensor =>
  memoryTensor('random', 'F32', shape, encodeFloat(random.randn(shape.reduce((a, b) => a * b, 1)), 'F32'));

const block = 'down_blocks.1.attentions.0.transformer_blocks.0';
const linear = { component: 'unet', layerName: `${block}.attn2.to_k`, kernel: null } as const;
const plain = { doraScale: null, biasDiff: null, mid: null, rank: 2, scale: 1.5, kind: 'lora' } as const;
const bare = { doraScale: null, biasDiff: null } as const;
const [m, n] = [6, 8];
const pair = () => ({ a: draw(m, 2), b: draw(2, n), core: null });

/** One layer of each kind that files hold. */
const KINDS: Readonly<Record<string, AdapterLayer>> = {
  linear: { ...linear, ...plain, up: draw(m, 2), down: draw(2, n) },
  'text encoder': {
    ...plain,
    component: 'text_encoder',
    layerName: 'text_model.encoder.layers.3.self_attn.v_proj',
    kernel: null,
    up: draw(m, 2),
    down: draw(2, n),
  },
  '1 × 1 convolution': {
    ...plain,
    component: 'unet',
    layerName: 'mid_block.attentions.0.proj_in',
    kernel: [1, 1],
    up: draw(m, 2, 1, 1),
    down: draw(2, n, 1, 1),
  },
  '3 × 3 convolution': {
    ...plain,
    component: 'unet',
    layerName: 'up_blocks.1.resnets.2.conv1',
    kernel: [3, 3],
    up: draw(m, 2, 1, 1),
    down: draw(2, n, 3, 3),
  },
  'Tucker core': {
    ...plain,
    component: 'unet',
    layerName: 'up_blocks.1.resnets.2.conv1',
    kernel: [3, 3],
    up: draw(m, 2, 1, 1),
    down: draw(2, n, 1, 1),
    mid: draw(2, 2, 3, 3),
  },
  DoRA: { ...linear, ...plain, up: draw(m, 2), down: draw(2, n), doraScale: draw(m, 1) },
  LoHa: { ...linear, ...bare, kind: 'loha', w1: pair(), w2: pair(), rank: 2, scale: 0.5 },
  LoKr: {
    ...linear,
    ...bare,
    kind: 'lokr',
    w1: { full: draw(2, 1) },
    w2: { a: draw(m / 2, 2), b: draw(2, n), core: null },
    rank: 2,
    scale: 0.5,
  },
  '(IA)³': { ...linear, ...bare, kind: 'ia3', weight: draw(m), onInput: false, rank: null, scale: 1 },
  'full difference': { ...linear, ...bare, kind: 'diff', diff: draw(m, n), rank: null, scale: 1 },
};
const base = draw(m, n);

function dense(layer: AdapterLayer): Float64Array {
  if (!needsBase(layer)) return denseOf(layer);
  const { up, down, scale } = layerDelta(layer, base);
  const resolved = { ...linear, ...plain, scale };
  const asTensor = ({ rows, cols, data }: typeof up): RawTensor =>
    memoryTensor('', 'F64', [rows, cols], new Uint8Array(Float64Array.from(data).buffer));
  return denseOf({ ...resolved, rank: up.cols, up: asTensor(up), down: asTensor(down) });
}

const targetOf = (scheme: Scheme): string => scratch(scheme.folder ? 'adapter' : 'lora.safetensors');
const outputOf = (layers: readonly AdapterLayer[]): OutputAdapter => ({
  architecture: 'sd1',
  words: [],
  title: 'one layer',
  layers,
});
/** Numbered layers are written whole or not at all: test/merging/promise.test.ts. */
const named = layerFormats.filter((format) => schemes[format].key !== null);
const isPlain = ({ kind, doraScale, ...rest }: AdapterLayer): boolean =>
  kind === 'lora' && doraScale === null && (rest as { mid: unknown }).mid === null;

describe.each(Object.keys(KINDS))('%s', (kind) => {
  const layer = KINDS[kind]!;
  const id = adapterModuleId(layer);
  const writers = named.filter(
    (format) => schemes[format].refuses(layer, 'sd1') === null && (isPlain(layer) || schemes[format].anyKind),
  );

  it.each(writers)(
    'written as %s is recognised, reads to the same numbers, and goes on to every other',
    async (format) => {
      const scheme = schemes[format];
      const file = targetOf(scheme);
      await writeAdapter(file, format, outputOf([layer]));
      const adapter = await loadAdapter(file);
      // A LyCORIS file of plain layers is kohya's.
      expect(adapter.scheme).toBe(format === 'lycoris' && isPlain(layer) ? 'kohya' : scheme.reader.name);
      expect([...adapter.layers.keys()]).toEqual([id]);
      const read = adapter.layers.get(id)!;
      expect([read.kind, read.kernel]).toEqual([layer.kind, layer.kernel]);
      expect(relativeError(dense(read), dense(layer))).toBeLessThan(1e-6);
      for (const other of named) {
        const refusal = schemes[other].refuses(read, 'sd1');
        const { output } = await convertAdapter(adapter, other, { rank: 100, base: () => base });
        const unsupported = unsupportedBy(other, output);
        if (refusal !== null) {
          expect(unsupported).toEqual([{ name: id, reason: refusal }]);
          continue;
        }
        expect(unsupported).toEqual([]);
        const target = targetOf(schemes[other]);
        await writeAdapter(target, other, output);
        const again = (await loadAdapter(target)).layers.get(id)!;
        expect(relativeError(dense(again), dense(layer))).toBeLessThan(1e-6);
      }
    },
  );
});

describe('any pair of schemes', () => {
  const spec = fc.record({
    seed: fc.integer({ min: 0, max: 1e6 }),
    rank: fc.integer({ min: 1, max: 5 }),
    loraAlpha: fc.double({ min: 0.1, max: 16, noNaN: true }),
    dtype: fc.constantFrom('F32' as const, 'F16' as const, 'BF16' as const),
  });
  it('carries attention layers of any rank, alpha and dtype over and back', async () => {
    const format = fc.constantFrom<LayerFormat>(...named);
    await fc.assert(
      fc.asyncProperty(format, format, spec, async (one, other, drawn) => {
        const output = randomAdapter(attentionLayers, drawn);
        const [first, second] = [targetOf(schemes[one]), targetOf(schemes[other])];
        await writeAdapter(first, one, output);
        const carried = await convertAdapter(await loadAdapter(first), other);
        await writeAdapter(second, other, carried.output);
        const { layers } = await loadAdapter(second);
        expect(layers.size).toBe(output.layers.length);
        for (const layer of output.layers) {
          expect(relativeError(denseOf(layers.get(adapterModuleId(layer))!), denseOf(layer))).toBeLessThan(
            1e-6,
          );
        }
      }),
      { numRuns: 40 },
    );
  });
});

describe('a scheme that is one entry', () => {
  /** Paths with slashes, factors called left and right. */
  const pattern = /^slashed\/(unet|text_encoder)\/(.+)\/(left|right)$/;
  const key: FactorKey = ({ component, layerName }, part) =>
    `slashed/${component}/${layerName.replaceAll('.', '/')}/${part === 'up' ? 'left' : 'right'}`;
  const slashed: Scheme = {
    ...schemes.diffusers,
    name: 'slashed',
    title: 'slashes',
    reader: {
      name: 'slashed',
      examples: ['slashed/unet/down_blocks/0/left'],
      recognises: (file) => [...file.tensors.keys()].filter((name) => pattern.test(name)).length,
      read: (file, context) => {
        const tensors = new Map(
          [...file.tensors.values()].map((tensor) => {
            const [, component, layer, part] = pattern.exec(tensor.name)!;
            const name = `${component}.${layer!.replaceAll('/', '.')}.${part === 'left' ? 'lora_B' : 'lora_A'}.weight`;
            return [name, renamed(tensor, name)] as const;
          }),
        );
        return schemes.diffusers.reader.read({ ...file, tensors }, context);
      },
    },
    key,
    encode: (output, stored) => {
      const layers = stored.filter((layer) => layer.kind === 'lora');
      const tensors = layers.flatMap((layer) => [
        renamed(layer.up, key(layer, 'up', 'sd1')),
        renamed(layer.down, key(layer, 'down', 'sd1')),
      ]);
      return [{ place: '', tensors, header: {}, layers, words: output.words }];
    },
  };
  const table = { ...SCHEME_TABLE, schemes: { ...schemes, slashed } };

  it('is read, merged and written', async () => {
    const [first, second] = [1, 2].map((seed) =>
      randomAdapter(attentionLayers, { seed, rank: 2, loraAlpha: 1, dtype: 'F32' }),
    ) as [OutputAdapter, OutputAdapter];
    const [one, other, merged] = ['one', 'other', 'merged'].map((name) => scratch(`${name}.safetensors`));
    await writeAdapter(one!, 'slashed', first, undefined, table);
    await writeAdapter(other!, 'kohya', second);
    const adapter = readAdapter(await openTensorFile(one!), { table });
    expect(adapter.scheme).toBe('slashed');
    const { output } = await mergeAdapters([{ adapter }, { adapter: await loadAdapter(other!) }]);
    expect(unsupportedBy('slashed', output, table)).toEqual([]);
    await writeAdapter(merged!, 'slashed', output, undefined, table);
    const { layers } = readAdapter(await openTensorFile(merged!), { table });
    first.layers.forEach((layer, i) => {
      const sum = denseOf(layer).map((value, at) => value + denseOf(second.layers[i]!)[at]!);
      expect(relativeError(denseOf(layers.get(adapterModuleId(layer))!), sum)).toBeLessThan(1e-6);
    });
  });

  it('is refused by name where the table has none', async () => {
    const adapter = outputOf([KINDS.linear!]);
    await expect(writeAdapter(scratch('a.safetensors'), 'slashed', adapter)).rejects.toThrow(
      'format: expected kohya, kohya-ldm',
    );
  });
});
