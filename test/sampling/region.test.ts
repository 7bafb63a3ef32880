import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { levelInputs } from '../../src/models/unet/region-attention.ts';
import {
  areaAverage,
  checkRegion,
  coverage,
  type Region,
  type RegionShape,
} from '../../src/sampling/region.ts';
import { boxMask, feathered, pictureMask, polygonMask } from '../../src/sampling/region-mask.ts';
import { sharePicture, sourceWeights } from '../../src/sampling/region-shares.ts';

const box = (left: number, top: number, right: number, bottom: number): RegionShape => ({
  kind: 'box',
  box: { top, left, bottom, right },
});
const region = (shape: RegionShape, weight?: number): Region => ({
  prompt: '',
  shape,
  weight,
});
const unit = fc.double({ min: 0, max: 1, noNaN: true });
const anyRegion = fc
  .tuple(unit, unit, unit, unit, fc.double({ min: 0.1, max: 5, noNaN: true }))
  .map(([a, b, c, d, weight]) =>
    region(box(Math.min(a, b), Math.min(c, d), Math.max(a, b), Math.max(c, d)), weight),
  );

describe('weights of context and regions', () => {
  it('sum to one everywhere, and the context rules where nothing covers', () => {
    fc.assert(
      fc.property(fc.array(anyRegion, { maxLength: 4 }), fc.integer({ min: 1, max: 9 }), (regions, size) => {
        const weights = sourceWeights(regions, size, size);
        const covers = regions.map(({ shape }) => coverage(shape, size, size));
        for (let n = 0; n < size * size; n++) {
          expect(weights.reduce((sum, own) => sum + own[n]!, 0)).toBeCloseTo(1, 5);
          const covered = covers.some((cover) => cover[n]! > 0);
          expect(weights[0]![n]).toBe(covered ? 0 : 1);
        }
      }),
    );
  });

  it('are the average by count for boxes, and follow the regions’ weights', () => {
    const [whole, half] = [region(box(0, 0, 1, 1)), region(box(0, 0, 0.5, 1))];
    expect(sourceWeights([whole, half], 1, 2).map((own) => [...own])).toEqual([
      [0, 0],
      [0.5, 1],
      [0.5, 0],
    ]);
    const weighted = sourceWeights([whole, region(box(0, 0, 0.5, 1), 3)], 1, 2);
    expect([...weighted[2]!]).toEqual([0.75, 0]);
  });

  it('share a half-covered cell with the context', () => {
    const mask: RegionShape = { kind: 'mask', mask: { width: 2, height: 1, data: Float32Array.of(0.25, 1) } };
    const [context, own] = sourceWeights([region(mask)], 1, 2);
    expect([...context!]).toEqual([0.75, 0]);
    expect([...own!]).toEqual([0.25, 1]);
  });
});

describe('the layout of a shared picture', () => {
  it('puts every row together again from the rows that are computed', () => {
    fc.assert(
      fc.property(fc.array(anyRegion, { maxLength: 4 }), (regions) => {
        const [height, width] = [5, 7];
        const tokens = regions.map(() => 77);
        const { layout, feeds } = sharePicture(regions, [77, ...tokens], [{ height, width }], true);
        const { rows, depth, apart } = layout.levels[0]!;
        const picked = [...(feeds[levelInputs.rows(0)]!.data as BigInt64Array)].map(Number);
        expect(picked.length).toBe(rows.reduce((a, b) => a + b, 0));
        // Attend with the identity: each computed row returns its own number.
        const result = new Array<number>(height * width).fill(0);
        for (let overlap = 0; overlap < depth; overlap++) {
          const places = feeds[levelInputs.places(0, overlap)]!.data as BigInt64Array;
          const weights = feeds[levelInputs.weights(0, overlap)]!.data as Float32Array;
          for (let n = 0; n < result.length; n++) result[n]! += weights[n]! * picked[Number(places[n])]!;
        }
        expect(result).toBeAllClose([...result.keys()], { rtol: 1e-5, atol: 1e-5 });
        const order = [...(feeds[levelInputs.partRows(0)]!.data as BigInt64Array)].map(Number);
        expect(order.toSorted((a, b) => a - b)).toEqual([...result.keys()]);
        expect(apart!.rows.reduce((a, b) => a + b, 0)).toBe(result.length);
      }),
    );
  });
});

describe('shapes', () => {
  it('average over cells without losing area', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 12 }),
        fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
        (width, height, size, stream) => {
          const data = Float32Array.from({ length: width * height }, () => stream.next().value!);
          const mean = (values: Float32Array): number => values.reduce((a, b) => a + b, 0) / values.length;
          expect(mean(areaAverage({ width, height, data }, size, size))).toBeCloseTo(mean(data), 5);
        },
      ),
    );
  });

  it('polygons cover their area, exactly where edges lie on pixels', () => {
    const square = polygonMask(
      [
        [0.25, 0.25],
        [0.75, 0.25],
        [0.75, 0.75],
        [0.25, 0.75],
      ],
      8,
      8,
    );
    expect(square.data).toEqual(boxMask({ top: 0.25, left: 0.25, bottom: 0.75, right: 0.75 }, 8, 8).data);
    const triangle = polygonMask(
      [
        [0, 0],
        [1, 0],
        [0, 1],
      ],
      32,
      32,
    );
    expect(triangle.data.reduce((a, b) => a + b, 0) / 1024).toBeCloseTo(0.5, 1);
    expect(() =>
      polygonMask(
        [
          [0, 0],
          [1, 1],
        ],
        8,
        8,
      ),
    ).toThrow(/three corners/);
  });

  it('fade at their edges but not at the border of the picture', () => {
    const soft = feathered(boxMask({ top: 0, left: 0, bottom: 1, right: 0.5 }, 16, 4), 3).data;
    expect(soft[0]).toBe(1);
    expect(soft[15]).toBe(0);
    for (let x = 1; x < 16; x++) expect(soft[x]!).toBeLessThanOrEqual(soft[x - 1]!);
    expect(soft[7]!).toBeGreaterThan(0.5);
    expect(soft[8]!).toBeLessThan(0.5);
  });

  it('fade as the weighted sum of their neighbours says', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 20 }),
        (values, radius) => {
          const data = Float32Array.from(values);
          const last = data.length - 1;
          const expected = values.map((_, i) => {
            let sum = 0;
            for (let j = -radius; j <= radius; j++) {
              sum += (radius + 1 - Math.abs(j)) * data[Math.min(last, Math.max(0, i + j))]!;
            }
            return sum / (radius + 1) ** 2;
          });
          const along = feathered({ width: data.length, height: 1, data }, radius).data;
          along.forEach((value, i) => {
            expect(value).toBeCloseTo(expected[i]!, 6);
          });
          expect(feathered({ width: 1, height: data.length, data }, radius).data).toEqual(along);
        },
      ),
    );
  });

  it('fade over any width in the same time, and over none that cannot be', () => {
    const mask = boxMask({ top: 0.1, left: 0.1, bottom: 0.9, right: 0.9 }, 1024, 1024);
    const start = performance.now();
    feathered(mask, 4096);
    expect(performance.now() - start).toBeLessThan(5000);
    for (const pixels of [-1, 1e9, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => feathered(mask, pixels)).toThrow(/feather: expected 0 … 4096, got/);
    }
  });

  it('are refused beyond what a picture has', () => {
    const many = Array.from({ length: 1_000_000 }, (_, i) => [i / 1e6, i % 2] as const);
    expect(() => polygonMask(many, 64, 64)).toThrow(/at most 1024 corners, got 1000000/);
    const wild = [[0, 0] as const, [1, Number.NaN] as const, [0, 1] as const];
    expect(() => polygonMask(wild, 64, 64)).toThrow(/expected numbers/);
    const whole = { top: 0, left: 0, bottom: 1, right: 1 };
    expect(() => boxMask(whole, 1 << 20, 1 << 20)).toThrow(/at most 4194304 pixels/);
    expect(() => boxMask(whole, 0.5, 8)).toThrow(/sides of 1/);
  });

  it('masks take any size', () => {
    const mask = pictureMask({ width: 2, height: 1, data: Uint8Array.of(255, 0) }, 4, 2);
    expect([...mask.data]).toEqual([1, 1, 0, 0, 1, 1, 0, 0]);
  });

  it('are refused outside the picture, inside out, or too small', () => {
    expect(() => checkRegion('region 1', box(0.5, 0, 1.5, 1), 8, 8)).toThrow(
      /region 1: expected a box inside/,
    );
    expect(() => checkRegion('region 1', box(0.5, 0, 0.2, 1), 8, 8)).toThrow(/left < right/);
    expect(() => checkRegion('region 1', box(0.5, 0, 0.55, 1), 8, 8)).toThrow(/no whole cell/);
  });
});
