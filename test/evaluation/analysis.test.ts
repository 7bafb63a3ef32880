import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { attentionMaps } from '../../src/evaluation/attention-maps.ts';
import { vocabularyDensity } from '../../src/evaluation/density.ts';
import { heatOverlay } from '../../src/evaluation/heat-overlay.ts';
import { coarseToFine, styleMix } from '../../src/evaluation/style-mix.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { ClipEncoder } from '../../src/models/clip/clip-encoder.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { vectorsOf } from '../support/tokens.ts';

const smileyFile = path.join(packageRoot(), 'fixtures/tiny-world/concepts/edlora_smiley.pth');
const sampling = { steps: 3, guidanceScale: 4 };
let base: Checkpoint;
let clip: ClipEncoder;
let parts: PipelineParts;
beforeAll(async () => {
  base = await openCheckpoint(defaultBase());
  clip = new ClipEncoder(await openClipModel(path.join(defaultBase(), 'clip')));
  const concept = await loadConcept(smileyFile);
  parts = { deltas: await conceptDeltas(base, concept), vocabulary: bindConcepts(base.tokenizer, [concept]) };
});
afterAll(() => clip.dispose());

async function drawn(prompt: string, seed: number): Promise<Uint8Array> {
  const pipeline = await Pipeline.create(base, parts);
  try {
    return (await pipeline.sample({ ...sampling, prompt, seed }))[0]!.data;
  } finally {
    await pipeline.dispose();
  }
}

describe('layer-wise prompt mixing', () => {
  it('orders the layers of SD 1.5 from the middle outwards', () => {
    expect(coarseToFine(SD15_UNET)).toEqual([6, 4, 5, 7, 8, 9, 2, 3, 10, 11, 12, 0, 1, 13, 14, 15]);
  });

  it('goes from all A to all B', async () => {
    const a = { prompt: 'photo of a <smiley1> <smiley2>', described: 'a yellow circle' };
    const b = { prompt: 'photo of a blue square' };
    const { order, points } = await styleMix({
      base,
      parts,
      clip,
      a,
      b,
      switched: [0, 5, 16],
      seed: 2,
      sampling,
    });
    expect(order).toHaveLength(16);
    expect(points.map(({ switched }) => switched)).toEqual([0, 5, 16]);
    const [first, middle, last] = points.map(({ pictures }) => pictures[0]!.data);
    expect(first).toEqual(await drawn(a.prompt, 2));
    expect(last).toEqual(await drawn(b.prompt, 2));
    expect(middle).not.toEqual(first);
    expect(middle).not.toEqual(last);
    expect(points[0]!.toA - points[0]!.toB).toBeGreaterThan(points[2]!.toA - points[2]!.toB);
    const wrong = { base, clip, a, b, switched: [17] };
    await expect(styleMix(wrong)).rejects.toThrow('expected 0 … 16 layers, got 17');
  });
});

describe('density of embeddings', () => {
  /** A checkpoint whose vocabulary is these rows. */
  function vocabularyOf(rows: Float32Array, width: number): Checkpoint {
    const name = 'text_model.embeddings.token_embedding.weight';
    const table = float32Tensor(name, [rows.length / width, width], rows);
    const weights = { label: 'test', get: (wanted: string) => (wanted === name ? table : undefined) };
    const textEncoders = new Map([['text_encoder', { ...base.parts.textEncoder, weights }]]);
    return { ...base, parts: base.parts.with({ textEncoders }) };
  }

  it('is the sum of Gaussians, and integrates to one', () => {
    const words = Float32Array.of(-1, 0.5, 2);
    const density = vocabularyDensity(vocabularyOf(words, 1), { bandwidth: 0.3 });
    const step = 0.01;
    const grid = Float32Array.from({ length: 1200 }, (_, i) => -6 + i * step);
    const values = density.logDensity(grid);
    expect(values.reduce((sum, value) => sum + Math.exp(value) * step, 0)).toBeCloseTo(1, 6);
    const at = (x: number): number =>
      words.reduce((sum, word) => sum + Math.exp(-((x - word) ** 2) / 0.18), 0) /
      (3 * 0.3 * Math.sqrt(2 * Math.PI));
    for (const i of [0, 400, 555, 700]) expect(Math.exp(values[i]!)).toBeCloseTo(at(grid[i]!), 8);
  });

  it('stays finite far from every word, where the plain sum underflows', () => {
    const density = vocabularyDensity(vocabularyOf(Float32Array.of(0, 0, 1, 1), 2), { bandwidth: 0.01 });
    const [far] = density.logDensity(Float32Array.of(-3, -3));
    expect(far).toBeCloseTo(-18 / 0.0002 - Math.log(2) - Math.log(2 * Math.PI * 1e-4), 3);
  });

  it('takes its width from Scott’s rule, and says where words lie among each other', () => {
    const width = 4;
    const rows = new TorchGenerator(0).randn(500 * width);
    const density = vocabularyDensity(vocabularyOf(rows, width));
    const center = Array.from({ length: width }, (_, k) =>
      rows.reduce((sum, value, i) => (i % width === k ? sum + value / 500 : sum), 0),
    );
    const square = rows.reduce((sum, value, i) => sum + (value - center[i % width]!) ** 2, 0);
    expect(density.bandwidth).toBeCloseTo(Math.sqrt(square / rows.length) * 500 ** (-1 / 8), 6);
    const { low, median, high } = density.vocabulary;
    expect(low).toBeLessThan(median);
    expect(median).toBeLessThan(high);
    const fresh = density.logDensity(new TorchGenerator(9).randn(50 * width)).sort();
    expect(Math.abs(fresh[25]! - median)).toBeLessThan(0.7);
  });

  it('tells learned embeddings from words in the miniature', async () => {
    const concept = await loadConcept(smileyFile);
    const density = vocabularyDensity(base);
    const { low, high } = density.vocabulary;
    for (const token of concept.tokens) {
      const embedding = vectorsOf(token);
      const values = density.logDensity(readFloat32(embedding));
      expect(values).toHaveLength(embedding.shape[0]!);
      expect(values.every((value) => Number.isFinite(value) && value < high)).toBe(true);
    }
    expect(low).toBeLessThan(high);
    expect(() => density.logDensity(new Float32Array(3))).toThrow('expected rows of 64');
    expect(() => vocabularyDensity(base, { bandwidth: 0 })).toThrow('expected a positive number');
  });
});

describe('attention maps', () => {
  it('come with the picture that the sampler draws, one map per word and resolution', async () => {
    const prompt = 'photo of a <smiley1> <smiley2> on a blue background';
    const { picture, maps } = await attentionMaps({ base, parts, prompt, seed: 4, sampling });
    const expected = await drawn(prompt, 4);
    const largest = picture.data.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - expected[i]!)),
      0,
    );
    expect(largest).toBeLessThanOrEqual(1);
    expect(maps.map(({ word, height, width }) => [word, height, width])).toEqual([
      ['<smiley1>', 16, 16],
      ['<smiley1>', 8, 8],
      ['<smiley1>', 4, 4],
      ['<smiley1>', 2, 2],
      ['<smiley2>', 16, 16],
      ['<smiley2>', 8, 8],
      ['<smiley2>', 4, 4],
      ['<smiley2>', 2, 2],
    ]);
    for (const { values } of maps) {
      expect(values.every((value) => value > 0 && value < 1)).toBe(true);
    }
    expect(maps.slice(0, 4).reduce((sum, { layers }) => sum + layers, 0)).toBe(16);
  });

  it('find plain words, and refuse words that are not there', async () => {
    const request = { base, prompt: 'a (red) circle', seed: 0, sampling: { steps: 1, guidanceScale: 1 } };
    const { maps } = await attentionMaps({ ...request, words: ['red', 'circle'] });
    expect(new Set(maps.map(({ word }) => word))).toEqual(new Set(['red', 'circle']));
    await expect(attentionMaps({ ...request, words: ['square'] })).rejects.toThrow('"square" is no word of');
    await expect(attentionMaps(request)).rejects.toThrow('holds no concept word');
  });
});

describe('heat over a picture', () => {
  it('is dark where the map is zero and bright at its largest value', () => {
    const picture = { width: 8, height: 8, data: new Uint8Array(192).fill(100) };
    const values = Float32Array.of(0, 0, 0, 0.2);
    const { data } = heatOverlay(picture, { height: 2, width: 2, values });
    const pixel = (x: number, y: number): number[] => [
      ...data.subarray((y * 8 + x) * 3, (y * 8 + x) * 3 + 3),
    ];
    expect(pixel(0, 0)).toEqual([35, 35, 40]);
    expect(pixel(7, 7)).toEqual([199, 201, 142]);
    expect(heatOverlay(picture, { height: 1, width: 1, values: Float32Array.of(0) }).data[0]).toBe(35);
  });
});
