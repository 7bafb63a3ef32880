import { beforeAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import type { ClipTokenizer } from '../../src/models/clip/tokenizer.ts';
import { defaultBase } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { initialVector, meanRowNorm } from '../../src/training/concept-embeddings.ts';

const width = 4000;
/** Of every word, its id. */
const embeddings = {
  width,
  row: (id: number) => new Float32Array(width).fill(id),
} as unknown as TokenEmbeddings;
let tokenizer: ClipTokenizer;
beforeAll(async () => {
  ({ tokenizer } = await openCheckpoint(defaultBase()));
});
const start = (init: string) => initialVector(init, tokenizer, embeddings, new TorchGenerator(1));

describe('a word starts', () => {
  it('as another one, whose vector stays as it is', () => {
    const [, id] = tokenizer.encode('circle');
    expect(start('circle')).toEqual(new Float32Array(width).fill(id!));
  });

  it.each([0.013, 2, 0])('at random with deviation %d', (deviation) => {
    const vector = start(`<rand-${deviation}>`);
    expect(vector).toHaveLength(width);
    expect(vector).toBeAllClose(
      new TorchGenerator(1).randn(width).map((x) => x * deviation),
      { rtol: 1e-6 },
    );
  });

  it.each(['<rand->', '<rand- >', '<rand-x>', '<rand--1>', '<rand-Infinity>'])('not as %s', (init) => {
    expect(() => start(init)).toThrow(UsageError);
    expect(() => start(init)).toThrow(/expected <rand-σ> with a number/);
  });

  it('as one token, not several or none', () => {
    expect(() => start('')).toThrow('init: expected a word, got nothing');
    expect(() => start('circle circle')).toThrow(/splits into 2: "circle", "circle"/);
  });
});

it('the norm of several rows is the mean of theirs', () => {
  expect(meanRowNorm(Float32Array.of(3, 4, 0, 1), 2)).toBe(3);
  expect(meanRowNorm(Float32Array.of(3, 4, 0, 0), 4)).toBe(5);
});
