/** Words of bases with two text encoders: every file that holds both halves gives both back; half of them is refused. */
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import type { ConceptToken } from '../../src/concepts/concept.ts';
import { tokensOf } from '../../src/concepts/concept-words.ts';
import { loadEmbeddings, type WordBase } from '../../src/concepts/embedding-file.ts';
import { type MergedLayer, writeEmbeddings, writeLora } from '../../src/concepts/lora-file.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { adapterFamily } from '../../src/models/families/families.ts';
import { LayerTable, layerOf } from '../../src/models/families/layer-table.ts';
import { scratch } from '../merging/random-adapters.ts';
import { goldenPath } from '../support/goldens.ts';

const WIDTHS = { text_encoder: 3, text_encoder_2: 5 } as const;
const LAYERS = 4;

/** Two text encoders, four cross-attentions. */
const base = {
  parts: {
    textEncoders: new Map(Object.entries(WIDTHS).map(([id, hiddenSize]) => [id, { config: { hiddenSize } }])),
    layers: new LayerTable(
      Array.from({ length: LAYERS }, (_, i) =>
        layerOf('unet', `attn${i}.to_k`, [2, 8], 'context', { contextIndex: i }),
      ),
    ),
  },
} as unknown as WordBase;

let next = 0;
const vectors = (width: number, rows: number) =>
  float32Tensor(
    'x',
    [rows, width],
    Float32Array.from({ length: rows * width }, () => next++),
  );
const token = (word: string, rows: number) => ({
  word,
  embeddings: new Map(Object.entries(WIDTHS).map(([id, width]) => [id, vectors(width, rows)])),
});
const told = (tokens: readonly ConceptToken[]) =>
  tokens.map(({ word, embeddings }) => [
    word,
    [...embeddings].map(([id, tensor]) => [id, tensor.shape, [...readFloat32(tensor)]]).sort(),
  ]);

const layer = (component: MergedLayer['component'], layerName: string): MergedLayer => ({
  component,
  layerName,
  rank: 1,
  up: Float32Array.of(1, 2),
  down: Float32Array.of(3, 4),
  kernel: null,
});
const layers = [
  layer('text_encoder', 'text_model.encoder.layers.0.mlp.fc1'),
  layer('text_encoder_2', 'text_model.encoder.layers.31.mlp.fc1'),
  layer('unet', 'mid_block.attentions.0.transformer_blocks.9.attn2.to_k'),
];
const family = adapterFamily('sdxl');

describe('ED-LoRA', () => {
  it.each(['own.safetensors', 'own.pth'])('%s holds layers and words of both text encoders', async (name) => {
    const file = scratch(name);
    const tokens = [token('<z>', LAYERS), token('<a>', LAYERS)];
    await writeLora(file, layers, { naming: 'ed-lora', family, tokens });
    const read = await loadAdapter(file);
    expect(read).toMatchObject({ scheme: 'ed-lora', architecture: 'sdxl' });
    expect(new Set(read.layers.keys())).toEqual(
      new Set(layers.map(({ component, layerName }) => `${component}:${layerName}`)),
    );
    expect(told(tokensOf(read.words))).toEqual(told(tokens));
    expect(read.words.every(({ rows }) => rows === 'layers')).toBe(true);
  });

  it('keeps a single vector single, and tells the family by words alone', async () => {
    const file = scratch('words.safetensors');
    const tokens = [token('<z>', 1)];
    await writeLora(file, [], { naming: 'ed-lora', family, tokens });
    const read = await loadAdapter(file);
    expect(read.architecture).toBe('sdxl');
    expect(told(tokensOf(read.words))).toEqual(told(tokens));
  });
});

describe('embeddings alone', () => {
  it.each([
    ['one word', [token('<z>', 1)]],
    ['a word of one vector per layer', [token('<z>', LAYERS)]],
    ['several words', [token('<z>', LAYERS), token('<a>', 1)]],
  ])('%s', async (_, tokens) => {
    const file = scratch('embeddings.safetensors');
    await writeEmbeddings(file, tokens);
    const { concept, expansions } = await loadEmbeddings(file, base);
    expect(told(concept.tokens)).toEqual(told(tokens.toSorted((a, b) => (a.word < b.word ? -1 : 1))));
    expect(expansions).toEqual(new Map(tokens.length === 1 ? [['embeddings', ['<z>']]] : []));
  });

  it('several vectors are as many tokens of both text encoders', async () => {
    const file = scratch('cat.safetensors');
    const [l, g] = [vectors(3, 2), vectors(5, 2)];
    await writeSafetensors(file, [
      { ...l, name: 'clip_l' },
      { ...g, name: 'clip_g' },
    ]);
    const { concept, expansions } = await loadEmbeddings(file, base);
    expect(expansions).toEqual(new Map([['cat', ['cat', 'cat_1']]]));
    const second = concept.tokens[1]!.embeddings;
    expect(readFloat32(second.get('text_encoder')!)).toEqual(readFloat32(l).subarray(3));
    expect(readFloat32(second.get('text_encoder_2')!)).toEqual(readFloat32(g).subarray(5));
  });

  it.each([
    [
      { clip_l: [1, 3] },
      /text_encoder \(clip_l\) and text_encoder_2 \(clip_g\), got those of text_encoder \(clip_l\); /,
    ],
    [{ clip_g: [1, 5] }, /got those of text_encoder_2 \(clip_g\); a base with several text encoders/],
    [{ '<word>': [1, 3] }, /got those of text_encoder \(clip_l\)/],
    [{ clip_l: [1, 3], clip_g: [1, 4] }, /expected width 5, got 4/],
    [{ clip_l: [2, 3], clip_g: [1, 5] }, /expected as many vectors of each text encoder, got 1 and 2/],
  ])('%j is refused', async (shapes, message) => {
    const file = scratch('half.safetensors');
    await writeSafetensors(
      file,
      Object.entries(shapes).map(([name, shape]) => ({ ...vectors(shape[1]!, shape[0]!), name })),
    );
    await expect(loadEmbeddings(file, base)).rejects.toThrow(message);
  });
});

it('every text encoder gets its own rows', async () => {
  const tokenizer = await loadTokenizer(goldenPath('goldens/tokenizer/tiny'));
  const concept = (name: string, tokens: readonly ReturnType<typeof token>[]) =>
    ({ path: name, format: 'ed-lora', tokens, layers: new Map(), metadata: new Map() }) as const;
  const [one, two] = [token('<one>', LAYERS), token('<two>', 1)];
  const bound = bindConcepts(tokenizer, [concept('a', [one]), concept('b', [two])], LAYERS);
  const single = [...readFloat32(two.embeddings.get('text_encoder_2')!)];
  expect([...bound.embeddingRows('text_encoder_2')]).toEqual([
    ...readFloat32(one.embeddings.get('text_encoder_2')!),
    ...Array(LAYERS).fill(single).flat(),
  ]);
  const half = { word: '<half>', embeddings: new Map([['text_encoder', vectors(3, 1)]]) };
  expect(() => bindConcepts(tokenizer, [concept('a', [one]), concept('b', [half])], LAYERS)).toThrow(
    'b: embedding of <half>: expected vectors of text_encoder and text_encoder_2 as <one> has, got those of text_encoder',
  );
});
