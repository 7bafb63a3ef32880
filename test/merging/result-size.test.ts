/** What a result would take in memory is told before the work. */
import { describe, expect, it } from 'vitest';
import type { AdapterLayer } from '../../src/adapters/adapter.ts';
import { layerDelta } from '../../src/adapters/delta.ts';
import { factorRank } from '../../src/adapters/layer-limits.ts';
import { refuseLargeResult } from '../../src/merging/result-size.ts';
import { allLayers, randomAdapter, randomLycoris } from './random-adapters.ts';

const spec = { seed: 3, rank: 3, loraAlpha: 2, dtype: 'F32' } as const;

describe('the size of a result', () => {
  it('counts the factors that layers have once they are LoRA', () => {
    for (const layer of [
      ...randomAdapter(allLayers, spec).layers,
      ...randomLycoris(allLayers, spec).layers,
    ]) {
      expect(factorRank(layer), layer.kind).toBe(layerDelta(layer).up.cols);
    }
  });

  it('is refused with both numbers where it does not fit, and a way out', () => {
    const parts: AdapterLayer[] = [...randomLycoris(allLayers, spec).layers];
    const layers = (rank: number | null) =>
      parts.map((layer) => ({ parts: [layer, layer], added: true, rank }));
    expect(() => refuseLargeResult('merge', layers(null), 'F32', 1000)).toThrow(
      /merge: expected a result of at most 0\.0 GB.*got 0\.0 GB.*`rank`/,
    );
    expect(() => refuseLargeResult('merge', layers(1), 'F16', 1000)).not.toThrow();
    expect(() => refuseLargeResult('merge', layers(null), 'F32')).not.toThrow();
  });
});
