/** Means of embeddings, and the way from them back to a pooled state. */
import { describe, expect, it } from 'vitest';
import {
  lengthOf,
  meanEmbedding,
  projected,
  projectionOf,
  takenBack,
  unit,
} from '../../src/deprojector/embedding.ts';
import { UsageError } from '../../src/errors.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { defaultBase } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const vector = (seed: number): Float32Array => new TorchGenerator(seed).randn(64);

describe('embeddings', () => {
  it('of a pooled state lead back to it, as far as its length is the mean', async () => {
    const clip = await openClipModel(`${defaultBase()}/clip`);
    const projection = await projectionOf(clip, clip.text);
    const [state, origin] = [vector(1), vector(2)];
    const long = projected({ ...projection, length: 1, origin }, state);
    const space = { ...projection, origin, length: lengthOf(long) };
    const back = takenBack(space, unit(long));
    expect(back).toBeAllClose(
      state.map((value, i) => value - origin[i]!),
      { rtol: 1e-3, atol: 1e-3 },
    );
    // A picture's or a mean's has the direction alone.
    expect(takenBack({ ...space, length: 2 * space.length }, unit(long))).toBeAllClose(
      state.map((value, i) => 2 * value - origin[i]!),
      { rtol: 1e-3, atol: 1e-3 },
    );
    await expect(projectionOf(clip, { ...clip.text, hiddenSize: 32 })).rejects.toThrow(
      /states have 32 numbers/,
    );
    await expect(projectionOf(clip, { ...clip.text, numLayers: 4 })).rejects.toThrow(/with 4 text layers/);
  });

  it('have a mean by their weights, of length 1', () => {
    const [a, b] = [unit(vector(3)), unit(vector(4))];
    const mean = (x: number, y: number) =>
      meanEmbedding([
        { embedding: a, weight: x },
        { embedding: b, weight: y },
      ]);
    expect(lengthOf(mean(1, 0.7))).toBeCloseTo(1, 5);
    expect(mean(1, 0)).toBeAllClose(a, { rtol: 1e-5, atol: 1e-6 });
    expect(mean(2, 1)).toBeAllClose(unit(a.map((value, i) => 2 * value + b[i]!)), { rtol: 1e-4, atol: 1e-6 });
    expect(mean(2, 1)).toBeAllClose(mean(1, 0.5), { rtol: 1e-4, atol: 1e-6 });
    expect(mean(1, -0.5)).toBeAllClose(unit(a.map((value, i) => value - 0.5 * b[i]!)), {
      rtol: 1e-4,
      atol: 1e-6,
    });
  });

  it('that cancel each other, or have no weight, have none', () => {
    const a = unit(vector(5));
    const minus = a.map((value) => -value);
    expect(() =>
      meanEmbedding([
        { embedding: a, weight: 1 },
        { embedding: minus, weight: 1 },
      ]),
    ).toThrow(/cancel/);
    expect(() => meanEmbedding([])).toThrow(UsageError);
    expect(() => meanEmbedding([{ embedding: a, weight: 0 }])).toThrow(UsageError);
    expect(() => meanEmbedding([{ embedding: a, weight: Number.NaN }])).toThrow(/finite weights/);
  });
});
