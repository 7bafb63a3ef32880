/** The term that holds where words look to their mask, against the definition in float64. */
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { interpret } from '../../src/graph/interpret.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import {
  attentionTargets,
  attentionTerm,
  maskInput,
  outsideInput,
  wordPositions,
} from '../../src/training/attention-regularization.ts';
import { uniform } from '../support/matrices.ts';

/** Two pictures of 4 × 2 cells: the object fills the upper half of the first, the right column of the second. */
const size = { height: 4, width: 2 };
const masks = Float32Array.of(1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1);

describe('targets', () => {
  it('are the mask at the size of the level, by the nearest cell before, and a mean over what lies outside', () => {
    const levels = new Map([
      [0, size],
      [1, { height: 2, width: 1 }],
      [2, { height: 8, width: 2 }],
    ]);
    const { feeds, counts } = attentionTargets(masks, 2, size, levels);
    expect(counts).toBe(true);
    expect([...feeds[maskInput(0)]!.data]).toEqual([...masks]);
    expect(feeds[outsideInput(0)]!.shape).toEqual([2, 8]);
    expect(feeds[outsideInput(0)]!.data as Float32Array).toBeAllClose(masks.map((x) => (1 - x) / 8));
    expect([...feeds[maskInput(1)]!.data]).toEqual([1, 0, 0, 0]);
    expect(feeds[outsideInput(1)]!.data as Float32Array).toBeAllClose([0, 1 / 3, 1 / 3, 1 / 3]);
    const doubled = [0, 1].flatMap((b) =>
      Array.from({ length: 16 }, (_, i) => masks[8 * b + 2 * Math.floor(i / 4) + (i % 2)]!),
    );
    expect([...feeds[maskInput(2)]!.data]).toEqual(doubled);
  });

  it('do not count where a level has nothing outside', () => {
    const full = new Float32Array(16).fill(1);
    expect(attentionTargets(full, 2, size, new Map([[0, size]])).counts).toBe(false);
  });
});

it('places of words are one-hot in their row, and none where a row has none', () => {
  const { shape, data } = wordPositions([[1, 3], null, [0, 2]], 4);
  expect(shape).toEqual([3, 1, 4, 2]);
  const ones = [...data].flatMap((value, i) => (value === 1 ? [i] : value === 0 ? [] : [-1]));
  expect(ones).toEqual([2, 7, 16, 21]);
});

describe.each([true, false])('the term, where the subject fills its mask: %s', (fullIdentity) => {
  it('is that of the definition', () => {
    const next = uniform(5);
    const levels = new Map([
      [0, { layers: 2, ...size }],
      [1, { layers: 1, height: 2, width: 1 }],
    ]);
    const { feeds } = attentionTargets(masks, 2, size, levels);
    const g = new GraphBuilder();
    const maps = new Map(
      [...levels].map(([level, { layers, height, width }]) => [
        level,
        Array.from({ length: layers }, (_, layer) => {
          const name = `map.${level}.${layer}`;
          const data = Float32Array.from({ length: 2 * height * width * 2 }, next);
          feeds[name] = float32([2, height * width, 2], data);
          return g.input(name, 'float32', [2, height * width, 2]);
        }),
      ]),
    );
    g.output('term', attentionTerm(g, maps, fullIdentity));
    const results = interpret(g.finish(), feeds);

    let expected = 0;
    for (const [level, { layers }] of levels) {
      const mask = feeds[maskInput(level)]!.data as Float32Array;
      const [adjective, subject] = [0, 1].map((word) => {
        const map = Array.from(mask, (_, i) => {
          let sum = 0;
          for (let layer = 0; layer < layers; layer++)
            sum += Number(feeds[`map.${level}.${layer}`]!.data[2 * i + word]);
          return sum / layers;
        });
        const most = Math.max(...map);
        return map.map((x) => x / most);
      }) as [number[], number[]];
      const mean = (values: number[]): number => values.reduce((a, b) => a + b) / values.length;
      const outside = (map: number[]): number => mean(map.filter((_, i) => mask[i] === 0));
      expected += outside(adjective);
      expected += fullIdentity ? mean(subject.map((x, i) => (x - mask[i]!) ** 2)) : outside(subject);
    }
    expect(Number(results.term!.data[0])).toBeCloseTo(expected, 5);
    expect(results['attention_maps.1']!.data).toEqual(feeds['map.1.0']!.data);
  });
});
