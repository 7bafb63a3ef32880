/** What other tools make of the same files against the true sum, on one layer whose merges can be written down. */
import { describe, expect, it } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { quantile } from '../../src/merging/foreign-merges.ts';
import { lintMerge } from '../../src/merging/lint.ts';
import { attentionLayers, denseOf, randomAdapter, scratch } from './random-adapters.ts';

async function adapterOf(seed: number, { rank = 2, loraAlpha = 3, layers = 2 } = {}): Promise<Adapter> {
  const made = randomAdapter(attentionLayers.slice(0, layers), { seed, rank, loraAlpha, dtype: 'F32' });
  const file = scratch('lora.safetensors');
  await writeAdapter(file, 'kohya', made);
  return loadAdapter(file);
}
const norm = (values: Iterable<number>): number => Math.hypot(...values);
const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

describe('lint', () => {
  it('measures each layer and all of them by error, gain and angle', async () => {
    const [first, second] = [await adapterOf(1), await adapterOf(2)];
    const inputs = [
      { adapter: first, strength: 1 },
      { adapter: second, strength: 0.5 },
    ];
    const report = await lintMerge(inputs, 'kohya-concat');
    // The rank doubles while alpha stays, and the ratio enters twice: half of A + half of a quarter of B.
    const pairs = [...first.layers].map(([id, a]) => {
      const [own, other] = [denseOf(a), denseOf(second.layers.get(id)!)];
      return {
        id,
        truth: own.map((x, i) => x + 0.5 * other[i]!),
        theirs: own.map((x, i) => 0.5 * x + 0.5 * 0.25 * other[i]!),
      };
    });
    let [errors, squares, products] = [0, 0, 0];
    for (const [i, { id, truth, theirs }] of pairs.entries()) {
      const error = norm(theirs.map((x, k) => x - truth[k]!));
      const layer = report.layers[i]!;
      expect(layer.id).toBe(id);
      expect(layer.relativeError).toBeCloseTo(error / norm(truth), 5);
      expect(layer.gain).toBeCloseTo(dot(theirs, truth) / norm(truth) ** 2, 5);
      expect(layer.cosine).toBeCloseTo(dot(theirs, truth) / norm(truth) / norm(theirs), 5);
      errors += error ** 2;
      squares += norm(truth) ** 2;
      products += dot(theirs, truth);
    }
    expect(report.relativeError).toBeCloseTo(Math.sqrt(errors / squares), 5);
    expect(report.gain).toBeCloseTo(products / squares, 5);
    expect(report.refusal).toBeNull();
  });

  it('adds factors as sd-scripts does, each with √(alpha / first alpha) times the ratio', async () => {
    const [first, second] = [await adapterOf(3), await adapterOf(4, { loraAlpha: 6 })];
    const alone = await lintMerge([{ adapter: first, strength: 1 }], 'kohya-merge');
    expect(alone.relativeError).toBeLessThan(1e-6);
    const halved = await lintMerge([{ adapter: first, strength: 0.5 }], 'kohya-merge');
    expect(halved.gain).toBeCloseTo(0.5, 6);
    const turned = await lintMerge([{ adapter: first, strength: -1 }], 'kohya-merge');
    expect(turned.gain).toBeCloseTo(1, 6);
    const both = await lintMerge([{ adapter: first }, { adapter: second }], 'kohya-concat');
    expect(both.gain).toBeCloseTo(0.5, 6);
    expect(both.relativeError).toBeCloseTo(0.5, 6);
  });

  it('calls nothing out of nothing right', async () => {
    const { layers, gain, relativeError } = await lintMerge(
      [{ adapter: await adapterOf(5), strength: 0 }],
      'kohya-concat',
    );
    expect(layers.map((layer) => [layer.relativeError, layer.gain, layer.cosine])).toEqual([
      [0, 1, 1],
      [0, 1, 1],
    ]);
    expect([relativeError, gain]).toEqual([0, 1]);
  });

  it('stops at the first layer that a tool refuses', async () => {
    const inputs = [{ adapter: await adapterOf(6) }, { adapter: await adapterOf(7, { rank: 4 }) }];
    const report = await lintMerge(inputs, 'kohya-merge');
    expect(report.refusal).toMatch(/^unet:.*: kohya-merge: expected equal ranks, got 2 and 4/);
    expect([report.layers, report.relativeError, report.gain]).toEqual([[], Number.NaN, Number.NaN]);
  });
});

it('a quantile lies between order statistics, as torch.quantile has it', () => {
  const values = Float64Array.of(3, 1, 2, 5);
  expect([0, 0.25, 0.5, 1].map((share) => quantile(values, share))).toEqual([1, 1.75, 2.5, 5]);
  expect(quantile(Float64Array.of(7), 0.3)).toBe(7);
  expect([...values]).toEqual([3, 1, 2, 5]);
});
