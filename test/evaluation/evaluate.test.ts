import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { type DrawnSample, type EvaluateRequest, evaluate } from '../../src/evaluation/evaluate.ts';
import { type NamedPicture, readPictureFolder } from '../../src/evaluation/picture-folder.ts';
import { imageAlignment, mean, similarities } from '../../src/evaluation/similarity.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { ClipEncoder } from '../../src/models/clip/clip-encoder.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
let base: Checkpoint;
let clip: ClipEncoder;
let references: NamedPicture[];
beforeAll(async () => {
  base = await openCheckpoint(defaultBase());
  clip = new ClipEncoder(await openClipModel(path.join(defaultBase(), 'clip')));
  references = await readPictureFolder(path.join(concepts, 'smiley'));
});
afterAll(() => clip.dispose());

describe('evaluate', () => {
  it('draws the same prompts and seeds by each model, scores them, and pairs them', async () => {
    const concept = await loadConcept(path.join(concepts, 'edlora_smiley.pth'));
    const parts = {
      deltas: await conceptDeltas(base, concept),
      vocabulary: bindConcepts(base.tokenizer, [concept]),
    };
    const drawn: DrawnSample[] = [];
    const progress: number[] = [];
    const request: EvaluateRequest = {
      base,
      clip,
      references,
      variants: [
        { name: 'single', words: '<smiley1> <smiley2>', parts },
        { name: 'base', words: 'circle' },
      ],
      prompts: ['photo of a <TOK>', 'a <TOK> on a blue background', 'a <TOK>'],
      samples: 5,
      seed: 3,
      sampling: { steps: 6, guidanceScale: 4 },
      onPicture: (sample) => {
        drawn.push(sample);
        return `${sample.variant}-${sample.index}.png`;
      },
      onProgress: ({ done, total }) => progress.push(done / total),
    };
    const result = await evaluate(request);
    const [single, plain] = result.variants;
    expect(drawn.filter(({ variant }) => variant === 'base').map(({ prompt }) => prompt)).toEqual([
      'photo of a circle',
      'photo of a circle',
      'a circle on a blue background',
      'a circle on a blue background',
      'a circle',
    ]);
    expect(single!.samples.map(({ prompt, seed, file }) => [prompt, seed, file])).toEqual([
      [0, 3, 'single-0.png'],
      [0, 4, 'single-1.png'],
      [1, 3, 'single-2.png'],
      [1, 4, 'single-3.png'],
      [2, 3, 'single-4.png'],
    ]);
    expect(plain!.samples.map(({ prompt, seed }) => [prompt, seed])).toEqual(
      single!.samples.map(({ prompt, seed }) => [prompt, seed]),
    );
    expect(progress).toEqual(Array.from({ length: 10 }, (_, i) => (i + 1) / 10));
    expect(result.scoring.pictures).toBe(references.length + 10);

    // The numbers again, from the pictures that were handed out.
    const embeddings = await clip.pictures(drawn.slice(0, 5).map(({ picture }) => picture));
    const reference = await clip.pictures(references);
    expect(single!.image.mean).toBeCloseTo(mean(similarities(embeddings, reference)), 6);
    expect(single!.samples.map((sample) => sample.imageAlignment)).toEqual([
      ...imageAlignment(embeddings, reference),
    ]);
    const text = await clip.texts(['photo of a', 'a on a blue background']);
    const cosines = similarities(embeddings, text);
    expect(single!.samples[1]!.textAlignment).toBeCloseTo(cosines[2]!, 6);
    expect(single!.samples[3]!.textAlignment).toBeCloseTo(cosines[7]!, 6);
    expect(single!.difference).toBeNull();
    expect(plain!.difference!.image.mean).toBeCloseTo(plain!.image.mean - single!.image.mean, 9);
    const own = similarities(reference, reference);
    const pairs = reference.count * (reference.count - 1);
    const total = own.reduce((a, b) => a + b, 0);
    expect(result.referenceAlignment).toBeCloseTo((total - reference.count) / pairs, 5);
    expect(single!.image.mean).toBeGreaterThan(plain!.image.mean);
  });

  it('may begin each prompt with noise of its own', async () => {
    const { variants } = await evaluate({
      base,
      clip,
      references,
      variants: [{ name: 'base', words: 'circle' }],
      prompts: ['a <TOK>', 'a <TOK>'],
      samples: 4,
      seed: 3,
      seedStep: 2,
      sampling: { steps: 1, guidanceScale: 1 },
    });
    const { samples } = variants[0]!;
    expect(samples.map(({ seed }) => seed)).toEqual([3, 4, 5, 6]);
    expect(samples[2]!.imageAlignment).not.toBe(samples[0]!.imageAlignment);
  });

  it('refuses models of one name, and nothing to do, before it draws', async () => {
    const request: EvaluateRequest = {
      base,
      clip,
      references,
      prompts: ['<TOK>'],
      variants: [
        { name: 'a', words: 'x' },
        { name: 'a', words: 'y' },
      ],
      onPicture: () => expect.fail('drew'),
    };
    await expect(evaluate(request)).rejects.toThrow('two models are called "a"');
    await expect(evaluate({ ...request, variants: [] })).rejects.toThrow('at least one model');
    const one = { ...request, variants: request.variants.slice(1) };
    await expect(evaluate({ ...one, prompts: [] })).rejects.toThrow('at least one prompt');
    await expect(evaluate({ ...one, references: [] })).rejects.toThrow('at least one reference');
    await expect(evaluate({ ...one, samples: 0 })).rejects.toThrow('samples: expected a whole number');
  });

  it('leaves masks out of a folder of pictures', () => {
    expect(references).toHaveLength(10);
    expect(references.every(({ name }) => !name.includes('mask'))).toBe(true);
  });
});

describe('scoring', () => {
  it('takes 1,000 pictures of 64 × 64 in a minute at most', async () => {
    const noise = (seed: number) => ({
      width: 64,
      height: 64,
      data: Uint8Array.from(new TorchGenerator(seed).randint(0, 256, 64 * 64 * 3)),
    });
    const pictures = Array.from({ length: 1000 }, (_, i) => noise(i % 50));
    const start = performance.now();
    const { count, width, data } = await clip.pictures(pictures);
    // Measured 0.75 s on two busy cores.
    expect(performance.now() - start).toBeLessThan(60_000);
    expect([count, width]).toEqual([1000, 64]);
    expect(data.slice(0, width)).toBeAllClose(data.slice(950 * width, 951 * width), { rtol: 0, atol: 1e-6 });
  });
});

describe('CLIP models', () => {
  it('are refused when they are something else', async () => {
    await expect(openClipModel(path.join(defaultBase(), 'text_encoder'))).rejects.toThrow(
      'expected a whole CLIP model (text and vision), got clip_text_model',
    );
    await expect(openClipModel(path.join(defaultBase(), 'nowhere'))).rejects.toThrow('expected a folder');
  });
});
